"""Batches over HTTP: what a request becomes, how a batch is shown while it runs and when it has ended."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from services.jobs import lifecycle
from services.jobs.types import Outcome
from shared.contracts.jobs import Usage
from tests.gateway.batching import Batches, opened
from tests.gateway.conftest import Gateway
from tests.gateway.served import refused, rows
from tests.services.batches.build import CHAT, envelope, file, jsonl

HOOK = {"url": "https://example.com/h", "events": ["job.queued", "job.succeeded"]}
KEPT = {"anchor": "created_at", "seconds": 7200}
TIMES = ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")


@pytest.fixture
def batches(gateway: Gateway) -> Iterator[Batches]:
    with opened(gateway) as found:
        yield found


def times(batch: dict[str, Any]) -> set[str]:
    return {name for name in TIMES if batch[name] is not None}


class TestCreate:
    def test_it_is_a_job_of_the_batch_tier(self, batches: Batches) -> None:
        made = batches.create(file(2), completion_window="1h", metadata={"a": "b"}, priority=7)
        assert (made["object"], made["status"], made["endpoint"]) == ("batch", "validating", CHAT)
        assert made["expires_at"] == pytest.approx(made["created_at"] + 3600, abs=2)
        assert (made["metadata"], made["usage"], made["errors"], made["model"]) == ({"a": "b"}, None, None, None)
        assert made["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
        assert times(made) == set()
        answer = batches.client.get(f"/v1/batches/{made['id']}")
        assert answer.json() == made
        assert answer.headers["x-job-id"] == made["job_id"]
        job = batches.client.get(f"/v1/jobs/{made['job_id']}").json()
        assert (job["kind"], job["tier"], job["priority"], job["queue"]) == ("batch", "batch", 7, "control")

    @pytest.mark.parametrize(("window", "seconds"), [("1h", 3600), ("4h", 14400), ("24h", 86400), ("7d", 604800)])
    def test_windows_are_deadlines(self, batches: Batches, window: str, seconds: int) -> None:
        made = batches.create(completion_window=window)
        assert made["completion_window"] == window
        assert made["expires_at"] - made["created_at"] == pytest.approx(seconds, abs=2)

    @pytest.mark.parametrize(
        ("change", "code", "param"),
        [
            ({"endpoint": "/v1/responses"}, "invalid_field", "endpoint"),
            ({"endpoint": None}, "invalid_field", "endpoint"),
            ({"completion_window": "2h"}, "invalid_field", "completion_window"),
            ({"input_file_id": "file-nothing"}, "invalid_field", "input_file_id"),
            ({"input_file_id": 7}, "invalid_field", "input_file_id"),
            ({"input_file_id": "\x00"}, "invalid_field", "input_file_id"),
            ({"metadata": {"a": 1}}, "invalid_field", "metadata.a"),
            (
                {"output_expires_after": {"anchor": "now", "seconds": 7200}},
                "invalid_field",
                "output_expires_after.anchor",
            ),
            (
                {"output_expires_after": {"anchor": "created_at", "seconds": 60}},
                "invalid_field",
                "output_expires_after.seconds",
            ),
            ({"colour": "red"}, "unknown_parameter", "colour"),
        ],
    )
    def test_a_wrong_field_is_named(
        self, gateway: Gateway, batches: Batches, *, change: dict[str, Any], code: str, param: str
    ) -> None:
        wanted = {"input_file_id": batches.upload(file(1)), "endpoint": CHAT, "completion_window": "24h"}
        before = rows(gateway)
        refused(batches.client.post("/v1/batches", json=wanted | change), 400, code, param=param)
        assert rows(gateway) == before

    def test_a_file_for_something_else_is_refused(self, batches: Batches) -> None:
        wanted = {"input_file_id": batches.upload(file(1), purpose="user_data"), "endpoint": CHAT}
        answer = batches.client.post("/v1/batches", json=wanted)
        assert "purpose" in refused(answer, 400, "invalid_field", param="input_file_id")["detail"]
        job = {"kind": "batch", "spec": wanted}
        refused(batches.client.post("/v1/jobs", json=job), 400, "invalid_field", param="spec.input_file_id")

    def test_a_class_that_there_is_not(self, batches: Batches) -> None:
        wanted = {"input_file_id": batches.upload(file(1)), "endpoint": CHAT, "gpu_class": "abacus"}
        refused(batches.client.post("/v1/batches", json=wanted), 422, "unknown_gpu_class", param="gpu_class")

    def test_a_key_makes_one_batch(self, batches: Batches) -> None:
        wanted = {"input_file_id": batches.upload(file(1)), "endpoint": CHAT, "webhook": HOOK}
        first, again = (
            batches.client.post("/v1/batches", json=wanted, headers={"Idempotency-Key": "mine"}) for _ in range(2)
        )
        assert first.json() == again.json()
        assert first.json()["webhook"]["secret"].startswith("whsec_")
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        other = batches.client.post("/v1/batches", json=wanted | {"priority": 1}, headers={"Idempotency-Key": "mine"})
        refused(other, 422, "idempotency_mismatch", param="Idempotency-Key")
        probe = {"kind": "probe", "spec": {"steps": 0}}
        assert batches.client.post("/v1/jobs", json=probe, headers={"Idempotency-Key": "mine"}).status_code == 202

    def test_a_blind_retry_makes_one_batch(self, batches: Batches) -> None:
        wanted = {"input_file_id": batches.upload(file(1)), "endpoint": CHAT}
        first = batches.client.post("/v1/batches", json=wanted)
        again = batches.client.post("/v1/batches", json=wanted, headers={"x-stainless-retry-count": "1"})
        assert first.json()["id"] == again.json()["id"]

    def test_its_scopes(self, gateway: Gateway, batches: Batches) -> None:
        made = batches.create()
        with gateway.caller("jobs:read", tenant=batches.tenant) as reader:
            assert reader.get("/v1/batches").status_code == 200
            assert reader.get(f"/v1/batches/{made['id']}").status_code == 200
            for path in ("", f"/{made['id']}/cancel", f"/{made['id']}/retry"):
                refused(reader.post(f"/v1/batches{path}", json={} if not path else None), 403, "missing_scope")


class TestLife:
    def test_it_runs_and_completes(self, batches: Batches) -> None:
        made = batches.create(file(4))
        batches.work("expand", made)
        running = batches.get(made)
        assert (running["status"], running["model"]) == ("in_progress", "tiny")
        assert running["request_counts"] == {"total": 4, "completed": 0, "failed": 0}
        assert times(running) == {"in_progress_at"}
        (claimed,) = batches.claim(made)
        batches.record(claimed, bad=1, limit=3)
        half = batches.get(made)
        assert half["request_counts"] == {"total": 4, "completed": 2, "failed": 1}
        assert (half["progress"]["done"], half["progress"]["total"], half["progress"]["unit"]) == (3, 4, "lines")
        batches.record(claimed)
        batches.end(claimed, usage=Usage(gpu_seconds=3.0, cost=0.25))
        batches.work("merge", made)
        done = batches.get(made)
        assert done["status"] == "completed"
        assert times(done) == {"in_progress_at", "finalizing_at", "completed_at"}
        assert done["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
        assert done["usage"] == {
            "input_tokens": 15,
            "input_tokens_details": {"cached_tokens": 3},
            "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 24,
        }
        assert (done["cost"], done["gpu_seconds"]) == (0.25, 3.0)
        lines = [orjson.loads(line) for line in batches.content(done["output_file_id"]).splitlines()]
        assert [line["custom_id"] for line in lines] == ["line-0", "line-2", "line-3"]
        (refusal,) = batches.content(done["error_file_id"]).splitlines()
        assert orjson.loads(refusal)["response"]["status_code"] == 400
        listed = batches.client.get("/v1/files", params={"purpose": "batch_output"}).json()["data"]
        assert {each["id"] for each in listed} == {done["output_file_id"], done["error_file_id"]}

    def test_a_bad_file_says_where(self, batches: Batches) -> None:
        made = batches.create(file(1) + jsonl(envelope(0), envelope(1, method="GET")))
        batches.work("expand", made)
        failed = batches.get(made)
        assert failed["status"] == "failed"
        assert times(failed) == {"failed_at"}
        assert failed["errors"]["object"] == "list"
        assert [(each["code"], each["line"], each["param"]) for each in failed["errors"]["data"]] == [
            ("duplicate_custom_id", 2, "custom_id"),
            ("invalid_method", 3, "method"),
        ]
        assert (failed["output_file_id"], failed["error_file_id"], failed["usage"]) == (None, None, None)

    def test_cancelling_keeps_what_is_answered(self, batches: Batches) -> None:
        made = batches.create(file(5))
        batches.work("expand", made)
        (claimed,) = batches.claim(made)
        batches.record(claimed, limit=2)
        asked = batches.client.post(f"/v1/batches/{made['id']}/cancel").json()
        assert (asked["status"], times(asked)) == ("cancelling", {"in_progress_at", "cancelling_at"})
        assert batches.client.post(f"/v1/batches/{made['id']}/cancel").json()["status"] == "cancelling"
        batches.end(claimed, Outcome.CANCELLED)
        batches.work("merge", made)
        done = batches.client.post(f"/v1/batches/{made['id']}/cancel").json()
        assert done["status"] == "cancelled"
        assert times(done) == {"in_progress_at", "finalizing_at", "cancelling_at", "cancelled_at"}
        assert done["request_counts"] == {"total": 5, "completed": 2, "failed": 3}
        assert len(batches.content(done["output_file_id"]).splitlines()) == 2
        told = [orjson.loads(line) for line in batches.content(done["error_file_id"]).splitlines()]
        assert {(line["response"], line["error"]["code"]) for line in told} == {(None, "batch_cancelled")}

    def test_cancelled_before_its_file_was_read(self, batches: Batches) -> None:
        made = batches.create()
        assert batches.client.post(f"/v1/batches/{made['id']}/cancel").json()["status"] == "cancelled"
        done = batches.get(made)
        assert times(done) == {"cancelling_at", "cancelled_at"}
        assert done["request_counts"] == {"total": 0, "completed": 0, "failed": 0}

    def test_an_expired_one(self, batches: Batches) -> None:
        made = batches.create(file(2))
        batches.work("expand", made)
        (claimed,) = batches.claim(made)
        batches.record(claimed, limit=1)
        batches.end(claimed, Outcome.EXPIRED, error=lifecycle.DEADLINE)
        batches.work("merge", made)
        done = batches.get(made)
        assert done["status"] == "expired"
        assert times(done) == {"in_progress_at", "finalizing_at", "expired_at"}
        assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}

    def test_its_job_tells_the_same(self, batches: Batches) -> None:
        made = batches.create(file(3), webhook={**HOOK, "secret": "whsec_" + "A" * 32})
        batches.run(made)
        job = batches.client.get(f"/v1/jobs/{made['job_id']}").json()
        assert (job["state"], job["progress"]["done"], job["usage"]["prompt_tokens"]) == ("succeeded", 3, 15)
        assert [each["name"] for each in job["artifacts"]] == ["output.jsonl"]
        assert job["results"] is None
        events = batches.client.get(f"/v1/jobs/{made['job_id']}/events", headers={"accept": "application/json"})
        assert events.status_code == 200
        assert "job.succeeded" in events.text
        explained = batches.client.get(f"/v1/jobs/{made['job_id']}/explain").json()
        assert (explained["cause"], explained["queue"]) == ("finished", "control")
        sent = batches.client.get(f"/v1/jobs/{made['job_id']}/webhook_deliveries").json()["data"]
        assert len(sent) == 2

    def test_a_part_is_no_batch(self, batches: Batches) -> None:
        made = batches.create(file(1))
        batches.work("expand", made)
        (claimed,) = batches.claim(made)
        refused(batches.client.get(f"/v1/batches/batch_{claimed.job_id.hex}"), 404, "not_found", param="batch_id")
        assert [each["id"] for each in batches.client.get("/v1/batches").json()["data"]] == [made["id"]]

    def test_the_jobs_own_retry_runs_the_whole_file_again(self, batches: Batches) -> None:
        made = batches.create(file(2))
        batches.run(made, bad=0)
        job = batches.client.post(f"/v1/jobs/{made['job_id']}/retry").json()
        again = batches.client.get(f"/v1/batches/batch_{job['id'].replace('-', '')}").json()
        assert (again["retry_of"], again["input_file_id"]) == (made["id"], made["input_file_id"])
        batches.run(again)
        assert batches.get(again)["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


class TestList:
    def test_pages_newest_first(self, batches: Batches) -> None:
        made = [batches.create()["id"] for _ in range(3)][::-1]
        first = batches.client.get("/v1/batches", params={"limit": 2}).json()
        assert ([each["id"] for each in first["data"]], first["has_more"]) == (made[:2], True)
        rest = batches.client.get("/v1/batches", params={"limit": 2, "after": first["last_id"]}).json()
        assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (made[2:], False)

    @pytest.mark.parametrize("after", ["batch_7", "x", "\x00"])
    def test_a_cursor_that_is_none(self, batches: Batches, after: str) -> None:
        refused(batches.client.get("/v1/batches", params={"after": after}), 400, "invalid_cursor", param="after")

    def test_what_is_anothers_is_not_there(self, batches: Batches, client: Any) -> None:
        made = batches.create()
        batches.run(made, bad=0)
        for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
            refused(client.request(method, f"/v1/batches/{made['id']}{path}"), 404, "not_found", param="batch_id")
        assert client.get("/v1/batches").json()["data"] == []
        wanted = {"input_file_id": made["input_file_id"], "endpoint": CHAT}
        refused(client.post("/v1/batches", json=wanted), 400, "invalid_field", param="input_file_id")
        foreign = client.get(f"/v1/files/{batches.get(made)['output_file_id']}/content")
        refused(foreign, 404, "not_found", param="file_id")
