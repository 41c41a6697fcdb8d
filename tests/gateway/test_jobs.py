"""`/v1/jobs`: submit, look, list, wait, and the verbs."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from services.jobs.types import Outcome
from tests.gateway import work
from tests.gateway.conftest import Gateway
from tests.support import wait_until

PROBE: dict[str, Any] = {"kind": "probe", "spec": {"steps": 0}}
LATER = "2100-01-01T00:00:00Z"
RETRY = {"x-stainless-retry-count": "1"}


def submit(client: httpx.Client, **extra: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={**PROBE, **extra})
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


def count(client: httpx.Client) -> int:
    return len(client.get("/v1/jobs").json()["data"])


class TestSubmit:
    def test_a_job_is_accepted_with_its_place(self, client: httpx.Client) -> None:
        answer = client.post("/v1/jobs", json={**PROBE, "metadata": {"project": "docs"}, "priority": 7})
        job = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
        assert (job["object"], job["state"], job["tier"], job["priority"]) == ("job", "queued", "normal", 7)
        assert (job["queue"], job["metadata"], job["version"]) == ("cpu.serve", {"project": "docs"}, 1)
        assert job["created_at"].endswith("Z")

    def test_what_was_answered_is_what_is_there(self, client: httpx.Client) -> None:
        job = submit(client, webhook={"url": "https://example.com/h", "events": ["job.failed"]})
        job["webhook"]["secret"] = None
        assert client.get(f"/v1/jobs/{job['id']}").json() == job

    def test_a_plan_writes_nothing(self, client: httpx.Client) -> None:
        answer = client.post("/v1/jobs", params={"validate_only": "true"}, json=PROBE)
        assert answer.status_code == 200
        assert answer.json()["plan"]["queue"] == "cpu.serve"
        assert count(client) == 0

    def test_a_made_secret_is_shown_once(self, client: httpx.Client) -> None:
        job = submit(client, webhook={"url": "https://example.com/h"})
        assert job["webhook"]["secret"].startswith("whsec_")
        again = client.get(f"/v1/jobs/{job['id']}").json()
        assert again["webhook"] == {"url": "https://example.com/h", "events": None, "secret": None}

    def test_a_given_secret_is_never_shown(self, client: httpx.Client) -> None:
        job = submit(client, webhook={"url": "https://example.com/h", "secret": "whsec_" + "A" * 44})
        assert job["webhook"]["secret"] is None

    def test_many_at_once_become_one_job_each(self, client: httpx.Client) -> None:
        with ThreadPoolExecutor(12) as threads:
            ids = set(threads.map(lambda _: submit(client, run_after=LATER)["id"], range(60)))
        assert len(ids) == 60
        listed = client.get("/v1/jobs", params={"limit": 100}).json()["data"]
        assert {job["id"] for job in listed} == ids

    def test_one_refused_among_many_spoils_no_other(self, client: httpx.Client) -> None:
        bodies = [PROBE if number % 3 else {**PROBE, "gpu_class": "none-such"} for number in range(30)]
        with ThreadPoolExecutor(10) as threads:
            statuses = list(threads.map(lambda body: client.post("/v1/jobs", json=body).status_code, bodies))
        assert statuses == [202 if body is PROBE else 422 for body in bodies]
        assert count(client) == 20


class TestWait:
    def test_the_answer_comes_with_the_end(self, gateway: Gateway, client: httpx.Client) -> None:
        job = submit(client)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(client.get, f"/v1/jobs/{job['id']}", params={"wait": "30s"})
            work.finish(gateway.database, job["id"])
            answer = waiting.result(timeout=10)
        assert answer.json()["state"] == "succeeded"

    def test_a_submit_may_wait_too(self, gateway: Gateway, client: httpx.Client) -> None:
        with ThreadPoolExecutor(1) as threads:
            webhook = {"url": "https://example.com/h", "events": ["job.checkpoint"]}
            waiting = threads.submit(
                client.post, "/v1/jobs", json={**PROBE, "webhook": webhook}, headers={"prefer": "wait=30"}
            )
            wait_until(lambda: count(client))
            work.finish(gateway.database, client.get("/v1/jobs").json()["data"][0]["id"])
            answer = waiting.result(timeout=10)
        assert (answer.status_code, answer.json()["state"]) == (202, "succeeded")
        assert answer.json()["webhook"]["secret"].startswith("whsec_")

    def test_it_ends_when_time_is_up(self, client: httpx.Client) -> None:
        job = submit(client)
        assert client.get(f"/v1/jobs/{job['id']}", params={"wait": 0.2}).json()["state"] == "queued"


class TestGet:
    def test_a_version_that_is_known_is_not_sent_again(self, client: httpx.Client) -> None:
        job = submit(client)
        path = f"/v1/jobs/{job['id']}"
        tag = client.get(path).headers["etag"]
        assert tag == '"1"'
        same = client.get(path, headers={"if-none-match": f'"0", {tag}'})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        client.post(f"{path}/pause")
        assert client.get(path, headers={"if-none-match": tag}).status_code == 200

    def test_results_and_usage_come_with_the_end(self, gateway: Gateway, client: httpx.Client) -> None:
        job = submit(client)
        claimed = work.claim(gateway.database, job["id"])
        running = client.get(f"/v1/jobs/{job['id']}").json()
        assert (running["state"], running["attempt"], running["results"]) == ("running", 1, None)
        artifact_id = work.artifact(gateway.database, gateway.settings, claimed, name="results.jsonl", data=b"{}\n")
        assert client.get(f"/v1/jobs/{job['id']}").json()["artifacts"] == []
        work.end(gateway.database, claimed)
        done = client.get(f"/v1/jobs/{job['id']}").json()
        assert [each["id"] for each in done["artifacts"]] == [artifact_id]
        assert done["started_at"] <= done["finished_at"]

    def test_an_error_has_its_members(self, gateway: Gateway, client: httpx.Client) -> None:
        job = submit(client, max_failures=1)
        work.finish(gateway.database, job["id"], Outcome.FAILED)
        failed = client.get(f"/v1/jobs/{job['id']}").json()
        assert (failed["state"], failed["failure_count"]) == ("failed", 1)
        assert failed["error"] | {"attempt": 1} == {
            "type": "/docs#boom",
            "code": "boom",
            "title": "It went wrong",
            "detail": "",
            "retryable": False,
            "attempt": 1,
            "cause": None,
        }


class TestList:
    @pytest.fixture
    def ids(self, client: httpx.Client) -> list[str]:
        made = [submit(client)["id"] for _ in range(5)]
        return made[::-1]  # newest first

    def test_pages_go_forth(self, client: httpx.Client, ids: list[str]) -> None:
        first = client.get("/v1/jobs", params={"limit": 2}).json()
        assert [job["id"] for job in first["data"]] == ids[:2]
        assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[0], ids[1], True)
        last = client.get("/v1/jobs", params={"limit": 3, "after": first["last_id"]}).json()
        assert ([job["id"] for job in last["data"]], last["has_more"]) == (ids[2:], False)

    def test_and_back(self, client: httpx.Client, ids: list[str]) -> None:
        page = client.get("/v1/jobs", params={"limit": 2, "before": ids[4]}).json()
        assert ([job["id"] for job in page["data"]], page["has_more"]) == (ids[2:4], True)
        page = client.get("/v1/jobs", params={"limit": 9, "before": ids[2]}).json()
        assert ([job["id"] for job in page["data"]], page["has_more"]) == (ids[:2], False)

    def test_a_page_has_at_most_a_hundred(self, client: httpx.Client, ids: list[str]) -> None:
        assert len(client.get("/v1/jobs", params={"limit": 100_000}).json()["data"]) == len(ids)

    def test_states_and_kinds_are_filters(self, client: httpx.Client, ids: list[str]) -> None:
        client.post(f"/v1/jobs/{ids[1]}/cancel")
        page = client.get("/v1/jobs", params={"state": ["cancelled", "failed"], "kind": "probe"}).json()
        assert [job["id"] for job in page["data"]] == [ids[1]]
        assert client.get("/v1/jobs", params={"kind": "inference"}).json()["data"] == []

    def test_no_page_of_nothing(self, client: httpx.Client) -> None:
        empty: dict[str, Any] = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
        assert client.get("/v1/jobs").json() == empty


class TestVerbs:
    def test_a_waiting_job_is_cancelled_at_once(self, client: httpx.Client) -> None:
        job = submit(client)
        answer = client.post(f"/v1/jobs/{job['id']}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        assert answer.headers["etag"] == f'"{answer.json()["version"]}"'
        again = client.post(f"/v1/jobs/{job['id']}/cancel")
        assert (again.status_code, again.json()) == (200, answer.json())

    def test_a_running_job_is_asked_to_stop(self, gateway: Gateway, client: httpx.Client) -> None:
        job = submit(client)
        work.claim(gateway.database, job["id"])
        answer = client.post(f"/v1/jobs/{job['id']}/cancel").json()
        assert answer["state"] == "running"
        assert answer["cancel_requested_at"] is not None

    def test_only_the_version_that_was_seen(self, client: httpx.Client) -> None:
        job = submit(client)
        path = f"/v1/jobs/{job['id']}"
        stale = client.post(f"{path}/cancel", headers={"if-match": '"7"'})
        assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
        assert client.get(path).json()["state"] == "queued"
        assert client.post(f"{path}/cancel", headers={"if-match": '"1"'}).json()["state"] == "cancelled"

    def test_pause_and_resume(self, client: httpx.Client) -> None:
        job = submit(client)
        assert client.post(f"/v1/jobs/{job['id']}/pause").json()["held_at"] is not None
        assert client.post(f"/v1/jobs/{job['id']}/resume").json()["held_at"] is None

    def test_what_has_ended_is_not_held(self, client: httpx.Client) -> None:
        job = submit(client)
        client.post(f"/v1/jobs/{job['id']}/cancel")
        refused = client.post(f"/v1/jobs/{job['id']}/pause")
        assert (refused.status_code, refused.json()["code"]) == (409, "already_finished")
        assert refused.headers["x-should-retry"] == "false"

    def test_retry_makes_a_new_job(self, client: httpx.Client) -> None:
        job = submit(client, metadata={"a": "b"})
        early = client.post(f"/v1/jobs/{job['id']}/retry")
        assert (early.status_code, early.json()["code"]) == (409, "not_finished")
        client.post(f"/v1/jobs/{job['id']}/cancel")
        keyed = {"idempotency-key": "again"}
        answer = client.post(f"/v1/jobs/{job['id']}/retry", headers=keyed)
        new = answer.json()
        assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/jobs/{new['id']}")
        assert (new["retry_of"], new["root_id"], new["metadata"]) == (job["id"], job["id"], {"a": "b"})
        assert client.post(f"/v1/jobs/{job['id']}/retry", headers=keyed).json()["id"] == new["id"]


class TestIdempotency:
    def test_the_first_answer_is_given_again(self, client: httpx.Client) -> None:
        body = {**PROBE, "webhook": {"url": "https://example.com/h"}}
        first = client.post("/v1/jobs", json=body, headers={"idempotency-key": "k"})
        client.post(f"{first.headers['location']}/cancel")
        again = client.post("/v1/jobs", json=body, headers={"idempotency-key": '"k"'})
        assert (again.status_code, again.content) == (202, first.content)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["location"] == first.headers["location"]
        assert "idempotent-replayed" not in first.headers
        assert count(client) == 1

    def test_spelling_is_no_difference(self, client: httpx.Client) -> None:
        headers = {"idempotency-key": "k"}
        first = client.post("/v1/jobs", json=PROBE, headers=headers)
        again = client.post("/v1/jobs", json={"spec": {"steps": 0}, "kind": "probe", "priority": 5}, headers=headers)
        assert again.json()["id"] == first.json()["id"]

    def test_another_body_is_refused(self, client: httpx.Client) -> None:
        headers = {"idempotency-key": "k"}
        client.post("/v1/jobs", json=PROBE, headers=headers)
        refused = client.post("/v1/jobs", json={**PROBE, "priority": 1}, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_mismatch")

    def test_keys_of_tenants_are_apart(self, gateway: Gateway, client: httpx.Client) -> None:
        headers = {"idempotency-key": "k"}
        with gateway.caller() as other:
            ids = {each.post("/v1/jobs", json=PROBE, headers=headers).json()["id"] for each in (client, other)}
        assert len(ids) == 2

    def test_a_refused_request_leaves_no_trace(self, client: httpx.Client) -> None:
        headers = {"idempotency-key": "k"}
        assert client.post("/v1/jobs", json={**PROBE, "gpu_class": "x"}, headers=headers).status_code == 422
        assert client.post("/v1/jobs", json=PROBE, headers=headers).status_code == 202

    def test_ten_at_once_make_one_job(self, client: httpx.Client) -> None:
        gate = threading.Barrier(10)

        def send(_: int) -> httpx.Response:
            gate.wait()
            return client.post("/v1/jobs", json=PROBE, headers={"idempotency-key": "herd"})

        with ThreadPoolExecutor(10) as threads:
            answers = list(threads.map(send, range(10)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.content for answer in answers}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
        assert count(client) == 1

    def test_what_is_kept_shows_no_secret(self, gateway: Gateway, client: httpx.Client) -> None:
        body = {**PROBE, "webhook": {"url": "https://example.com/h"}}
        answer = client.post("/v1/jobs", json=body, headers={"idempotency-key": "sealed"})
        with gateway.database.engine.connect() as connection:
            kept = connection.exec_driver_sql("SELECT body FROM idempotency_keys WHERE key = 'sealed'").scalar_one()
        assert answer.json()["webhook"]["secret"].encode() not in kept

    def test_the_sdks_blind_retry_finds_the_first_job(self, client: httpx.Client) -> None:
        first = submit(client)
        again = client.post("/v1/jobs", json=PROBE, headers=RETRY)
        assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first["id"], "true")
        other = client.post("/v1/jobs", json={**PROBE, "priority": 1}, headers=RETRY)
        assert "idempotent-replayed" not in other.headers

    @pytest.mark.parametrize("key", ["", "x" * 256, "two words", 'quo"te'])
    def test_a_key_is_printable_and_short(self, client: httpx.Client, key: str) -> None:
        refused = client.post("/v1/jobs", json=PROBE, headers={"idempotency-key": key})
        assert (refused.status_code, refused.json()["param"]) == (400, "Idempotency-Key")
