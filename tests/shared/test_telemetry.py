import io
import json
import logging
import os
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.accounts import tokens
from services.webhooks import signing
from shared import telemetry
from shared.settings import Environment


@pytest.fixture
def lines():
    """A logger, and the JSON lines that it has written."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(telemetry.JsonLines("gateway"))
    logger = telemetry.logger("tests.telemetry")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield logger, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)


class TestLines:
    def test_one_object_a_line_with_its_fields(self, lines):
        logger, written = lines
        job = uuid4()
        logger.info("job.finished", extra={"job": job, "seconds": 0.5})
        (line,) = written()
        assert line["event"] == "job.finished"
        assert (line["role"], line["level"], line["job"], line["seconds"]) == ("gateway", "INFO", str(job), 0.5)
        assert line["ts"].endswith("+00:00")

    def test_an_exception_is_told_by_type_place_and_first_line(self, lines):
        logger, written = lines
        try:
            raise ValueError("violates check constraint\nDETAIL: Failing row contains (a prompt)")
        except ValueError:
            logger.exception("boom")
        (line,) = written()
        assert line["exception"]["type"] == "ValueError"
        assert line["exception"]["message"] == "violates check constraint"
        assert "test_telemetry.py" in line["exception"]["at"][0]
        assert "prompt" not in json.dumps(line)

    @pytest.mark.parametrize(
        "secret",
        [
            tokens.new(Environment.PRODUCTION).text,
            signing.new_secret(),
            "Bearer abc.def",
            "redis://:hunter2@127.0.0.1/0",
            "postgresql+psycopg://modelyard:hunter2@127.0.0.1/db",
            "http://127.0.0.1/b/k?X-Amz-Signature=0123abcd&x=1",
        ],
    )
    def test_secrets_are_cut_out_wherever_they_stand(self, lines, secret):
        logger, written = lines
        logger.warning("saw %s", secret, extra={"field": secret, "deep": {"list": [secret]}})
        text = json.dumps(written(), ensure_ascii=False)
        assert "…" in text
        assert not any(part in text for part in (secret, "hunter2", "0123abcd", "abc.def"))


class TestFigures:
    def test_what_is_counted_is_exposed(self):
        counter = telemetry.counter("telemetry_tests", "Counted by a test.", "kind")
        counter.labels("a").inc(3)
        families = {family.name: family for family in text_string_to_metric_families(telemetry.exposition().decode())}
        sample = families["modelyard_telemetry_tests"].samples[0]
        assert (sample.value, sample.labels) == (3, {"kind": "a", "process": str(os.getpid())})
        assert "modelyard_process_resident_memory_bytes" in families
        telemetry.REGISTRY.unregister(counter)  # it is not documented
