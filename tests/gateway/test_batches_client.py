"""OpenAI's own client: upload, create, look, list by pages, cancel, download."""

from collections.abc import Iterator
from typing import Any

import openai
import orjson
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.gateway.batching import Batches, opened
from tests.gateway.conftest import Gateway
from tests.services.batches.build import CHAT, body, envelope, file, jsonl
from tests.support import wait_until
from tests.support.yards import StartYard

EMBEDDINGS = "/v1/embeddings"
EVERY: Any = "1h"  # the client's types know OpenAI's one window


@pytest.fixture
def batches(gateway: Gateway) -> Iterator[Batches]:
    with opened(gateway) as found:
        yield found


@pytest.fixture
def sdk(gateway: Gateway, batches: Batches) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(tenant=batches.tenant)) as client:
        yield client


class TestClient:
    def test_a_batch_from_its_file_to_its_answers(self, sdk: OpenAI, batches: Batches) -> None:
        upload = sdk.files.create(file=("input.jsonl", file(20)), purpose="batch")
        made = sdk.batches.create(
            input_file_id=upload.id,
            endpoint=CHAT,
            completion_window="24h",
            metadata={"project": "x"},
            output_expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert (made.object, made.status, made.input_file_id) == ("batch", "validating", upload.id)
        batches.run(made.model_dump(), bad=3)
        done = sdk.batches.retrieve(made.id)
        assert (done.status, done.model, done.metadata) == ("completed", "tiny", {"project": "x"})
        assert done.request_counts is not None
        assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (20, 19, 1)
        assert done.usage is not None
        assert (done.usage.input_tokens, done.usage.input_tokens_details.cached_tokens) == (95, 19)
        assert done.output_file_id is not None
        assert done.error_file_id is not None
        lines = [orjson.loads(line) for line in sdk.files.content(done.output_file_id).text.splitlines()]
        assert [line["custom_id"] for line in lines] == [f"line-{n}" for n in range(20) if n != 3]
        assert lines[0]["response"]["body"]["choices"][0]["message"]["content"] == "out"
        output = sdk.files.retrieve(done.output_file_id)
        assert output.purpose == "batch_output"
        assert output.expires_at == pytest.approx(output.created_at + 3600, abs=1)
        (line,) = sdk.files.content(done.error_file_id).text.splitlines()
        assert orjson.loads(line)["response"]["body"]["error"]["code"] == "invalid_value"

    def test_a_hundred_and_fifty_are_listed_by_themselves(self, sdk: OpenAI) -> None:
        upload = sdk.files.create(file=("input.jsonl", file(1)), purpose="batch")
        made = [
            sdk.batches.create(input_file_id=upload.id, endpoint=CHAT, completion_window="24h").id for _ in range(150)
        ]
        assert [each.id for each in sdk.batches.list()] == made[::-1]
        assert [each.id for each in sdk.batches.list(limit=100)] == made[::-1]

    def test_cancel(self, sdk: OpenAI, batches: Batches) -> None:
        upload = sdk.files.create(file=("input.jsonl", file(4)), purpose="batch")
        made = sdk.batches.create(input_file_id=upload.id, endpoint=CHAT, completion_window=EVERY)
        batches.work("expand", made.model_dump())
        assert sdk.batches.retrieve(made.id).status == "in_progress"
        assert sdk.batches.cancel(made.id).status == "cancelling"
        batches.work("merge", made.model_dump())
        done = sdk.batches.cancel(made.id)
        assert (done.status, done.output_file_id) == ("cancelled", None)

    def test_what_is_wrong_with_the_file(self, sdk: OpenAI, batches: Batches) -> None:
        upload = sdk.files.create(file=("input.jsonl", file(2) + file(1)), purpose="batch")
        made = sdk.batches.create(input_file_id=upload.id, endpoint=CHAT, completion_window="24h")
        batches.work("expand", made.model_dump())
        failed = sdk.batches.retrieve(made.id)
        assert failed.status == "failed"
        assert failed.errors is not None
        assert failed.errors.data is not None
        (problem,) = failed.errors.data
        assert (problem.code, problem.line, problem.param) == ("duplicate_custom_id", 3, "custom_id")

    def test_what_is_wrong_with_the_request(self, sdk: OpenAI) -> None:
        upload = sdk.files.create(file=("input.jsonl", file(1)), purpose="batch")
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("input_file_id", {"input_file_id": "file-x"}),
            ("endpoint", {"endpoint": "/v1/responses"}),
            ("completion_window", {"completion_window": "3h"}),
        ]
        for param, change in wrong:
            fields: dict[str, Any] = {"input_file_id": upload.id, "endpoint": CHAT, "completion_window": "24h"}
            with pytest.raises(openai.BadRequestError) as caught:
                sdk.batches.create(**(fields | change))
            assert caught.value.param == param
        with pytest.raises(openai.NotFoundError):
            sdk.batches.retrieve("batch_x")


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestYard:
    """The whole way, once: courier, workers and an engine that computes."""

    def test_a_file_that_is_run_twice_gives_the_same_bytes(self, yard: StartYard) -> None:
        running = yard(reaper_tick_s=1)
        asked = [chat(n, f"What does os.path.{n % 20} do?", temperature=n % 2) for n in range(60)]
        asked.append(chat(60, "hello", model="no-such-model"))
        asked.append(chat(61, "hello", temperature=9))
        with OpenAI(base_url=f"{running.url}/v1", api_key=running.admin_key) as client:
            upload = client.files.create(file=("input.jsonl", jsonl(*asked)), purpose="batch")
            first, second = (finished(client, upload.id, CHAT) for _ in range(2))
            assert contents(client, first) == contents(client, second)
            output, errors = ([orjson.loads(line) for line in each.splitlines()] for each in contents(client, first))
            assert [line["custom_id"] for line in output] == [f"line-{n}" for n in range(60)]
            assert [line["response"]["status_code"] for line in errors] == [404, 400]
            said = [line["response"]["body"]["choices"] for line in output]
            assert all(said[n] == said[n + 20] for n in range(40))
            assert first.usage is not None
            assert second.usage is not None
            assert first.usage.output_tokens > second.usage.output_tokens == 0  # the second came from the cache

            vectors = [envelope(n, url=EMBEDDINGS, body={"model": "yard-tiny", "input": f"{n}"}) for n in range(5)]
            upload = client.files.create(file=("texts.jsonl", jsonl(*vectors)), purpose="batch")
            embedded, _ = contents(client, finished(client, upload.id, EMBEDDINGS))
            assert len(orjson.loads(embedded.splitlines()[4])["response"]["body"]["data"]) == 1


def chat(number: int, text: str, **changes: Any) -> dict[str, Any]:
    return envelope(number, body=body(text, **{"model": "yard-tiny", "max_tokens": 8, **changes}))


def finished(client: OpenAI, file_id: str, endpoint: Any) -> Batch:
    made = client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h")
    wait_until(lambda: client.batches.retrieve(made.id).completed_at is not None, timeout=120, what="the batch ends")
    return client.batches.retrieve(made.id)


def contents(client: OpenAI, batch: Batch) -> tuple[bytes, bytes]:
    output, errors = (
        b"" if each is None else client.files.content(each).read()
        for each in (batch.output_file_id, batch.error_file_id)
    )
    return output, errors
