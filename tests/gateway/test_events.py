"""`/v1/jobs/{job_id}/events`: pages, and the stream as a client meets it."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from gateway import streams
from gateway.routes import job_events
from services.accounts import service as accounts
from shared.contracts.jobs import EventType
from shared.ids import new_id
from tests.gateway import work
from tests.gateway.conftest import Gateway
from tests.support import wait_until

PROBE = {"kind": "probe", "spec": {"steps": 0}}
STREAM = {"accept": "text/event-stream"}


def submit(client: httpx.Client) -> str:
    job: dict[str, Any] = client.post("/v1/jobs", json=PROBE).json()
    return str(job["id"])


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream, without its pings; fields that no event should have would be keys too."""
    event: dict[str, Any] = {}
    for line in lines:
        if not line and event:
            yield event
            event = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = json.loads(value) if name == "data" else value


class TestPage:
    def test_events_are_numbered(self, client: httpx.Client, gateway: Gateway) -> None:
        job_id = submit(client)
        work.finish(gateway.database, job_id)
        page = client.get(f"/v1/jobs/{job_id}/events").json()
        assert [event["id"] for event in page["data"]] == [1, 2, 3]
        assert [event["type"] for event in page["data"]] == ["job.queued", "job.started", "job.succeeded"]
        rest = client.get(f"/v1/jobs/{job_id}/events", params={"after": 1, "limit": 1}).json()
        assert [event["id"] for event in rest["data"]] == [2]


class TestStream:
    def test_it_tells_everything_and_ends_with_the_job(self, gateway: Gateway, client: httpx.Client) -> None:
        job_id = submit(client)
        with (
            ThreadPoolExecutor(1) as threads,
            client.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as answer,
        ):
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-accel-buffering"] == "no"
            assert answer.headers["cache-control"] == "no-cache"
            ending = threads.submit(work.finish, gateway.database, job_id)
            told = list(events(answer.iter_lines()))
            ending.result()
        page = client.get(f"/v1/jobs/{job_id}/events").json()["data"]
        assert [event["data"] for event in told] == page
        assert [(event["id"], event["event"]) for event in told] == [(str(e["id"]), e["type"]) for e in page]
        assert EventType(told[-1]["event"]).terminal

    def test_it_goes_on_where_the_client_was(self, gateway: Gateway, client: httpx.Client) -> None:
        job_id = submit(client)
        work.finish(gateway.database, job_id)
        whole = list(events(client.get(f"/v1/jobs/{job_id}/events", headers=STREAM).iter_lines()))
        rest = client.get(f"/v1/jobs/{job_id}/events", headers=STREAM | {"last-event-id": "1"})
        assert list(events(rest.iter_lines())) == whole[1:]
        over = client.get(f"/v1/jobs/{job_id}/events", headers=STREAM | {"last-event-id": whole[-1]["id"]})
        assert list(events(over.iter_lines())) == []

    def test_a_quiet_stream_is_kept_alive(self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(job_events, "PING_S", 0.1)
        job_id = submit(client)
        with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as answer:
            lines = answer.iter_lines()
            pings = [line for line, _ in zip(lines, range(20), strict=False) if line == ": ping"]
        assert len(pings) > 3

    def test_it_does_not_live_for_ever(self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(job_events, "LIFE_S", 0.3)
        job_id = submit(client)
        told = list(events(client.get(f"/v1/jobs/{job_id}/events", headers=STREAM).iter_lines()))
        assert [event["event"] for event in told] == ["job.queued"]

    def test_a_revoked_key_hears_no_more(
        self, gateway: Gateway, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job_events, "RECHECK_S", 0.1)
        tenant = gateway.tenant()
        with gateway.caller(tenant=tenant) as admin, gateway.caller(tenant=tenant) as reader:
            job_id = submit(admin)
            key = next(
                key
                for key in admin.get("/v1/api_keys").json()["data"]
                if key["key_id"] in reader.headers["authorization"]
            )
            with reader.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as answer:
                admin.delete(f"/v1/api_keys/{key['id']}")
                list(answer.iter_lines())  # ends, though the job has not
            assert reader.get("/v1/jobs").status_code == 401

    def test_a_key_opens_only_a_few(self, gateway: Gateway, client: httpx.Client) -> None:
        job_id = submit(client)
        path = f"/v1/jobs/{job_id}/events"
        opened = [client.send(client.build_request("GET", path, headers=STREAM), stream=True) for _ in range(5)]
        assert {answer.status_code for answer in opened} == {200}
        refused = client.get(path, headers=STREAM)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert refused.headers["retry-after"] == "1"
        for answer in opened:
            answer.close()
        wait_until(lambda: client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200)
        wait_until(
            lambda: client.get(path, headers=STREAM).status_code == 200, what="places of readers that left are free"
        )

    def test_nobody_hears_of_anothers_job(self, gateway: Gateway, client: httpx.Client) -> None:
        job_id = submit(client)
        with gateway.caller() as other:
            assert other.get(f"/v1/jobs/{job_id}/events", headers=STREAM).status_code == 404


class TestPlaces:
    def test_places_come_back(self) -> None:
        places = streams.Streams()
        caller = accounts.Caller(new_id(), "t", "key", frozenset())
        for _ in range(streams.OF_KEY * 3):
            with places.opened(caller):
                pass
        assert not places._open
