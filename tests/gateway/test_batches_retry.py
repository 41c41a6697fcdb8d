"""The lines of a batch that have no answer, run again: `POST /v1/batches/{id}/retry`."""

from collections.abc import Iterator
from typing import Any, NoReturn

import orjson
import pytest

from services.batches import service
from services.jobs.types import Outcome
from shared.errors import StoreUnavailable
from tests.gateway.batching import Batches, opened
from tests.gateway.conftest import Gateway
from tests.gateway.served import refused
from tests.services.batches.build import CHAT, body, envelope, file, jsonl


@pytest.fixture
def batches(gateway: Gateway) -> Iterator[Batches]:
    with opened(gateway) as found:
        yield found


class TestRetry:
    def retry(self, batches: Batches, made: dict[str, Any], **headers: str) -> Any:
        return batches.client.post(f"/v1/batches/{made['id']}/retry", headers=headers)

    def test_only_lines_without_an_answer_are_run_again_in_order(self, batches: Batches) -> None:
        stray = envelope(4, body=body("stray", model="unknown", maximum=1e30))  # beyond 64 bits as an integer
        made = batches.create(file(4) + jsonl(stray), metadata={"a": "b"}, completion_window="4h")
        batches.work("expand", made)
        (claimed,) = batches.claim(made)
        batches.record(claimed, bad=1, limit=3)
        batches.client.post(f"/v1/batches/{made['id']}/cancel")
        batches.end(claimed, Outcome.CANCELLED)
        batches.work("merge", made)
        again = self.retry(batches, made).json()
        assert (again["status"], again["retry_of"], again["metadata"]) == ("validating", made["id"], {"a": "b"})
        assert (again["endpoint"], again["completion_window"]) == (CHAT, "4h")
        found = [orjson.loads(line) for line in batches.content(again["input_file_id"]).splitlines()]
        assert found == [envelope(1), envelope(3), stray]
        batches.run(again)
        assert batches.get(again)["request_counts"] == {"total": 3, "completed": 3, "failed": 0}

    def test_a_key_makes_one(self, batches: Batches) -> None:
        made = batches.create()
        batches.run(made, bad=1)
        first, again = (self.retry(batches, made, **{"Idempotency-Key": "mine"}) for _ in range(2))
        assert first.json() == again.json()
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["x-job-id"] == first.json()["job_id"]
        assert len(batches.client.get("/v1/batches").json()["data"]) == 2

    def test_a_key_is_looked_at_before_the_store_is_needed(
        self, batches: Batches, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = batches.create()
        batches.run(made, bad=1)
        first = self.retry(batches, made, **{"Idempotency-Key": "mine"})

        def away(*_: object) -> NoReturn:
            raise StoreUnavailable

        monkeypatch.setattr(service, "undone", away)
        again = self.retry(batches, made, **{"Idempotency-Key": "mine"})
        assert (again.status_code, again.json()) == (200, first.json())
        assert again.headers["idempotent-replayed"] == "true"
        assert self.retry(batches, made, **{"Idempotency-Key": "other"}).status_code == 503

    def test_one_whose_file_was_never_read_is_run_whole(self, batches: Batches) -> None:
        made = batches.create()
        batches.client.post(f"/v1/batches/{made['id']}/cancel")
        assert self.retry(batches, made).json()["input_file_id"] == made["input_file_id"]
        batches.client.delete(f"/v1/files/{made['input_file_id']}")
        refused(self.retry(batches, made), 400, "invalid_field", param="input_file_id")

    def test_there_may_be_nothing_to_retry(self, batches: Batches) -> None:
        made = batches.create()
        refused(self.retry(batches, made), 409, "not_finished")
        batches.run(made)
        refused(self.retry(batches, made), 409, "nothing_to_retry")
        bad = batches.create(b"x\n")
        batches.work("expand", bad)
        answer = self.retry(batches, bad)
        refused(answer, 409, "bad_input_file")
        assert answer.headers["x-should-retry"] == "false"
