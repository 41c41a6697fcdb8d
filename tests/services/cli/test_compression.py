"""`modelyard calibrate` and `evaluate`: what is sent, and which files are uploaded for it."""

import json
from pathlib import Path

import pytest
import typer

from services.cli import sources
from services.cli.calibrate import app as calibrate
from services.cli.evaluate import app as evaluate
from services.cli.output import ExitCode
from services.cli.quantize import app as quantize
from services.cli.sources import Given, parse
from tests.services.cli.compression_answers import CALIBRATION, JOB, RESULT, job, run, script, sent
from tests.services.cli.scripted import gateway, reply, stream


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "chats:2024.jsonl"
    path.write_text('{"text": "What a file may be called."}\n')
    return path


class TestSources:
    def test_a_path_wins_over_any_other_reading(self, texts: Path) -> None:
        assert parse(str(texts), "--text") == Given(texts.name, texts)
        assert parse(f"{texts}:2.5", "--text") == Given(texts.name, texts, 2.5)

    def test_what_is_on_the_platform(self) -> None:
        assert parse("file-019b", "--text").source == {"type": "file", "file_id": "file-019b"}
        assert parse("library:3", "--text").source == {"type": "library", "weight": 3.0}

    @pytest.mark.parametrize(
        "text", ["nowhere.jsonl", "nowhere.jsonl:2", "library:much", "library:0", "library:nan", ""]
    )
    def test_what_is_nothing(self, text: str) -> None:
        with pytest.raises(typer.BadParameter):
            parse(text, "--text")


class TestUploads:
    def test_the_same_content_is_sent_once(self, texts: Path, tmp_path: Path) -> None:
        twin = tmp_path / "twin.jsonl"
        twin.write_bytes(texts.read_bytes())
        with gateway(*script(uploads=1)) as running:
            done = run(
                quantize, running, "tiny", "-s", "int8", "--calibration", str(texts), "--text", str(twin), "--json"
            )
        assert done.exit_code == ExitCode.OK, done.output
        spec = sent(running)["spec"]
        assert spec["data"] == spec["evaluation"]["tasks"][0]["data"] == [{"type": "file", "file_id": "file-0"}]
        assert [asked.path for asked in running.asked if asked.method == "POST"] == ["/v1/files", "/v1/jobs"]

    @pytest.mark.parametrize(("expires_at", "uploads"), [(None, 0), (1, 1)], ids=["kept", "about to expire"])
    def test_what_was_sent_before_is_used_again(self, texts: Path, expires_at: int | None, uploads: int) -> None:
        known = {"id": "file-old", "sha256": sources._digest(texts), "expires_at": expires_at}
        page = reply(200, {"data": [known], "has_more": False, "last_id": "file-old"})
        answers = [page, *script(uploads=uploads)[uploads:]] if uploads else [page, *script()]
        with gateway(*answers) as running:
            done = run(calibrate, running, "tiny", "--calibration", str(texts), "--json")
        assert done.exit_code == ExitCode.OK, done.output
        (source,) = sent(running)["spec"]["data"]
        assert source["file_id"] == ("file-0" if uploads else "file-old")

    def test_files_of_a_job_that_is_refused_are_forgotten(self, texts: Path) -> None:
        problem = {
            "code": "validation_failed",
            "detail": "wrong",
            "errors": [{"param": "spec.ignore.0", "message": "none"}],
        }
        answers = [*script(uploads=1)[:2], reply(422, problem), reply(200, {"deleted": True})]
        with gateway(*answers) as running:
            done = run(quantize, running, "tiny", "-s", "w4a16", "--calibration", str(texts), "--json")
        assert done.exit_code == ExitCode.REFUSED
        assert json.loads(done.stdout)["code"] == "validation_failed"
        assert "spec.ignore.0: none" in done.stderr
        assert [asked.path for asked in running.asked if asked.method == "DELETE"] == ["/v1/files/file-0"]


class TestWatching:
    def test_what_a_job_wrote_is_told_before_how_it_ended(self) -> None:
        ended = {"id": 1, "type": "job.succeeded"}
        answers = [reply(202, job("queued")), reply(200, job("running", done=1)), stream(ended)]
        with gateway(*answers, *script()[1:]) as running:
            done = run(calibrate, running, "tiny", "--json")
        assert done.exit_code == ExitCode.OK, done.output
        assert [line.split()[0] for line in done.stderr.splitlines()] == [
            "job",
            "quantizing",
            "imports:",
            "succeeded",
            "job",
        ]
        assert json.loads(done.stdout)["job"] == JOB


class TestCalibrate:
    def test_options_become_the_request_and_the_recommendation_is_shown(self) -> None:
        found = {
            "id": CALIBRATION,
            "facts": {"samples": 32, "sequence_length": 128, "texts": 500, "left_out": {"duplicate": 3}},
            "recommendation": {"scheme": "int8", "ignore": ["lm_head"], "smoothing_strength": 0.4, "reasons": ["so"]},
        }
        result = {**RESULT, "evaluation": None, "calibration": CALIBRATION, "artifact": "a-1"}
        options = ("-s", "int8", "-s", "w4a16", "--strategy", "diverse", "--group-size", "64")
        with gateway(*script(result=result, after=[reply(200, found)])) as running:
            done = run(calibrate, running, "tiny", *options)
        assert done.exit_code == ExitCode.OK, done.output
        assert sent(running) == {
            "kind": "calibration",
            "spec": {
                "model": "tiny",
                "sampling": {"strategy": "diverse"},
                "schemes": ["int8", "w4a16"],
                "group_size": 64,
            },
        }
        for told in ("32 × 128 tokens of 500 texts", "3 duplicate", "int8, smoothing 0.4", CALIBRATION, "a-1"):
            assert told in done.stdout


class TestEvaluate:
    def test_options_become_the_request(self) -> None:
        options = (
            "--baseline", "big", "--choices", "file-a", "--choices", "file-b", "--answers", "file-c", "--samples", "9",
            "--sequence-length", "64", "--max-tokens", "8", "--metric", "bleu", "--gate", "min_agreement=0.5",
        )  # fmt: skip
        with gateway(*script()) as running:
            done = run(evaluate, running, "tiny", *options, "--detach", "--json")
        assert done.exit_code == ExitCode.OK, done.output
        assert json.loads(done.stdout) == {"job": JOB, "model": None, "artifact": None, "evaluation": None}
        assert sent(running)["spec"] == {
            "model": "tiny",
            "baseline": "big",
            "tasks": [
                {"type": "text", "samples": 9, "sequence_length": 64},
                {"type": "choice", "name": "choice", "file_id": "file-a", "samples": 9},
                {"type": "choice", "name": "choice-2", "file_id": "file-b", "samples": 9},
                {
                    "type": "generation",
                    "name": "generation",
                    "file_id": "file-c",
                    "samples": 9,
                    "max_tokens": 8,
                    "metrics": ["bleu"],
                },
            ],
            "speed": True,
            "gate": {"min_agreement": 0.5},
        }

    @pytest.mark.parametrize("wrong", [("--gate", "min_agreement=1"), ("--metric", "meteor", "--answers", "file-c")])
    def test_what_the_contract_refuses_is_not_sent(self, wrong: tuple[str, ...]) -> None:
        with gateway(reply(500)) as running:
            done = run(evaluate, running, "tiny", *wrong)
        assert (done.exit_code, running.asked) == (ExitCode.USAGE, [])
