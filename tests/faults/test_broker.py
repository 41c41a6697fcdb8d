"""A broker that forgets everything, and bells that nobody rang (faults 9, 11)."""

from typing import Any

import orjson
import pytest
import redis

from shared.contracts.jobs import State
from tests.faults.history import History, submit
from tests.support.polling import wait_until
from tests.support.yards import RunningYard

pytestmark = pytest.mark.faults

Both = tuple[RunningYard, History]


@pytest.fixture
def broker(shared_yard: Both) -> Any:
    _, history = shared_yard
    with redis.Redis.from_url(history.settings.broker_url.get_secret_value()) as client:
        yield client


class TestFlush:
    def test_jobs_survive_a_flushed_broker(self, shared_yard: Both, broker: Any) -> None:
        yard, history = shared_yard
        ids = []
        for _ in range(10):
            ids += [submit(yard, "probe", {"steps": 2, "step_seconds": 0.05}) for _ in range(3)]
            broker.flushall()
        assert {history.finished(job_id)["state"] for job_id in ids} == {State.SUCCEEDED}
        history.check(ids)

    def test_a_full_broker_is_not_the_callers_trouble(self, shared_yard: Both, broker: Any) -> None:
        yard, history = shared_yard
        broker.config_set("maxmemory", "1")
        try:
            ids = [submit(yard, "probe", {}) for _ in range(5)]
            assert {history.finished(job_id)["state"] for job_id in ids} == {State.SUCCEEDED}
        finally:
            broker.config_set("maxmemory", "0")
        history.check(ids)


class TestForgedBells:
    @pytest.mark.parametrize(
        "forged",
        [
            b"not json at all",
            orjson.dumps(
                {"body": "eyJ9", "content-encoding": "utf-8", "content-type": "application/x-python-serialize"}
            ),
            b"x" * 10_000_000,
        ],
        ids=["garbage", "pickle", "ten-megabytes"],
    )
    def test_garbage_does_not_stop_the_worker(self, shared_yard: Both, broker: Any, forged: bytes) -> None:
        yard, history = shared_yard
        before = yard.pids("worker")
        for key in ("modelyard:cpu.serve", "cpu.serve"):
            broker.lpush(key, forged)
        job_id = submit(yard, "probe", {})
        assert history.finished(job_id)["state"] == State.SUCCEEDED
        assert yard.pids("worker") == before
        history.check([job_id])

    def test_a_thousand_copies_of_a_bell_start_nothing_twice(self, shared_yard: Both, broker: Any) -> None:
        yard, history = shared_yard
        bell = orjson.dumps(
            {
                "body": "W1siY3B1LnNlcnZlIl0sIHt9LCB7ImNhbGxiYWNrcyI6IG51bGwsICJlcnJiYWNrcyI6IG51bGwsICJjaGFpbiI6IG51"
                "bGwsICJjaG9yZCI6IG51bGx9XQ==",  # [["cpu.serve"], {}, {…}] as Celery's protocol 2 puts it
                "content-encoding": "utf-8",
                "content-type": "application/json",
                "headers": {"lang": "py", "task": "modelyard.ring", "id": "forged", "argsrepr": "", "kwargsrepr": ""},
                "properties": {
                    "correlation_id": "forged", "delivery_mode": 2, "delivery_tag": "forged", "body_encoding": "base64",
                    "delivery_info": {"exchange": "", "routing_key": "cpu.serve"}, "priority": 0,
                },
            }
        )  # fmt: skip
        job_id = submit(yard, "probe", {"steps": 3, "step_seconds": 0.2})
        broker.lpush("modelyard:cpu.serve", *([bell] * 1000))
        job = history.finished(job_id)
        assert (job["state"], job["attempt"]) == (State.SUCCEEDED, 1)
        wait_until(lambda: broker.llen("modelyard:cpu.serve") == 0, timeout=60, what="the bells were taken")
        history.check([job_id])
