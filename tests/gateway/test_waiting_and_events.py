"""Waiting for jobs: at once when there is nothing to wait for, cheap when there is, and no event lost or told twice."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from services.jobs import lifecycle
from services.jobs.types import Outcome
from shared.contracts.jobs import EventType
from shared.db.models import Job
from tests.gateway import work
from tests.gateway.conftest import Gateway
from tests.gateway.served import PROBE, refused, submit
from tests.support import wait_until

STREAM = {"accept": "text/event-stream"}
WAITERS = 40  #: four times the connections of the gateway's pool
AT_ONCE_S = 5.0  #: far less than the waits below, on a busy host


def events(lines: Iterator[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number, type, data) of a stream's events."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            assert set(fields) == {"id", "event", "data"}
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


def append(gateway: Gateway, job_id: str, count: int) -> None:
    """Progress events, each in a transaction of its own."""
    for number in range(count):
        with gateway.database.transaction() as session:
            job = session.get_one(Job, job_id, with_for_update=True)
            lifecycle.append(session, job, EventType.PROGRESS, {"done": number})


@asynccontextmanager
async def patient(client: httpx.Client) -> AsyncIterator[httpx.AsyncClient]:
    """A client that can wait in many places at once."""
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=client.base_url, headers=client.headers, timeout=30, limits=limits) as opened:
        yield opened


class TestWait:
    @pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED, Outcome.EXPIRED])
    def test_what_has_ended_is_told_at_once(self, gateway: Gateway, client: httpx.Client, outcome: Outcome) -> None:
        job = submit(client, max_failures=1)
        work.finish(gateway.database, job["id"], outcome)
        answer = client.get(f"/v1/jobs/{job['id']}", params={"wait": "20s"})
        assert answer.json()["state"] == outcome
        assert answer.elapsed.total_seconds() < AT_ONCE_S

    @pytest.mark.parametrize("headers", [{"prefer": "wait=20"}, {"prefer": "respond-async, wait=20"}])
    def test_prefer_says_the_same(self, client: httpx.Client, headers: dict[str, str]) -> None:
        job = submit(client)
        threading.Timer(0.3, lambda: client.post(f"/v1/jobs/{job['id']}/cancel")).start()
        answer = client.get(f"/v1/jobs/{job['id']}", headers=headers)
        assert answer.json()["state"] == "cancelled"
        assert 0.2 < answer.elapsed.total_seconds() < 15

    def test_a_change_that_is_no_end_ends_no_wait(self, client: httpx.Client) -> None:
        job = submit(client)
        threading.Timer(0.2, lambda: client.post(f"/v1/jobs/{job['id']}/pause")).start()
        answer = client.get(f"/v1/jobs/{job['id']}", params={"wait": 1})
        assert (answer.json()["state"], answer.json()["held_at"] is None) == ("queued", False)
        assert answer.elapsed.total_seconds() >= 1

    def test_nobody_waits_for_what_is_not_there(self, gateway: Gateway, client: httpx.Client) -> None:
        job = submit(client)
        with gateway.caller() as other:
            answer = other.get(f"/v1/jobs/{job['id']}", params={"wait": 20})
        refused(answer, 404, "not_found", param="job_id")
        assert answer.elapsed.total_seconds() < AT_ONCE_S

    def test_a_refused_submit_does_not_wait(self, client: httpx.Client) -> None:
        answer = client.post("/v1/jobs", params={"wait": 20}, json={**PROBE, "gpu_class": "x"})
        refused(answer, 422, "unknown_gpu_class", param="gpu_class")
        assert answer.elapsed.total_seconds() < AT_ONCE_S

    def test_who_waits_holds_no_connection(self, gateway: Gateway, client: httpx.Client) -> None:
        job = submit(client)

        def busy() -> int:
            query = text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'modelyard-gateway' AND state <> 'idle'"
            )
            with gateway.database.engine.connect() as connection:
                return int(connection.execute(query).scalar_one())

        async def all_wait() -> list[httpx.Response]:
            path = f"/v1/jobs/{job['id']}"
            async with patient(client) as many, AsyncExitStack() as streams:
                waiting = [asyncio.create_task(many.get(path, params={"wait": 25})) for _ in range(WAITERS)]
                for _ in range(4):
                    await streams.enter_async_context(many.stream("GET", f"{path}/events", headers=STREAM))
                await asyncio.to_thread(wait_until, lambda: busy() == 0, what="no connection is in use")
                other = await many.get("/v1/jobs", timeout=AT_ONCE_S)
                assert other.status_code == 200
                assert not any(each.done() for each in waiting)
                await asyncio.to_thread(work.finish, gateway.database, job["id"])
                return await asyncio.gather(*waiting)

        assert {answer.json()["state"] for answer in asyncio.run(all_wait())} == {"succeeded"}


class TestEvents:
    def test_a_client_that_is_cut_off_misses_nothing(self, gateway: Gateway, client: httpx.Client) -> None:
        """Three events a connection, while more are written; then the rest."""
        job = submit(client)
        writer = threading.Thread(target=append, args=(gateway, job["id"], 40))
        told: list[tuple[int, str, dict[str, Any]]] = []
        writer.start()
        while len(told) < 30:
            last = {"last-event-id": str(told[-1][0])} if told else {}
            with client.stream("GET", f"/v1/jobs/{job['id']}/events", headers=STREAM | last) as answer:
                told += [event for event, _ in zip(events(answer.iter_lines()), range(3), strict=False)]
        writer.join()
        work.finish(gateway.database, job["id"])
        last = {"last-event-id": str(told[-1][0])}
        with client.stream("GET", f"/v1/jobs/{job['id']}/events", headers=STREAM | last) as answer:
            told += list(events(answer.iter_lines()))
        assert [number for number, _, _ in told] == list(range(1, len(told) + 1))
        assert [data["data"]["done"] for _, type_, data in told if type_ == "job.progress"] == list(range(40))
        assert (told[0][1], told[-1][1]) == ("job.queued", "job.succeeded")

    def test_more_than_a_page_comes_whole(self, gateway: Gateway, client: httpx.Client) -> None:
        job = submit(client)
        with gateway.database.transaction() as session:
            row = session.get_one(Job, job["id"], with_for_update=True)
            for number in range(230):
                lifecycle.append(session, row, EventType.PROGRESS, {"done": number})
        client.post(f"/v1/jobs/{job['id']}/cancel")
        answer = client.get(f"/v1/jobs/{job['id']}/events", headers=STREAM)
        assert [number for number, _, _ in events(answer.iter_lines())] == list(range(1, 233))

    @pytest.mark.parametrize(
        ("verb", "terminal"), [("cancel", "job.cancelled"), ("fail", "job.failed"), ("end", "job.succeeded")]
    )
    def test_one_terminal_event_is_the_last(
        self, gateway: Gateway, client: httpx.Client, verb: str, terminal: str
    ) -> None:
        job = submit(client, max_failures=1)
        if verb == "cancel":
            client.post(f"/v1/jobs/{job['id']}/cancel")
        else:
            work.finish(gateway.database, job["id"], Outcome.FAILED if verb == "fail" else Outcome.SUCCEEDED)
        types = [type_ for _, type_, _ in events(client.get(job["links"]["events"], headers=STREAM).iter_lines())]
        assert [type_ for type_ in types if EventType(type_).terminal] == [terminal] == types[-1:]

    def test_the_query_says_where_to_begin_too(self, client: httpx.Client) -> None:
        job = submit(client)
        client.post(f"/v1/jobs/{job['id']}/cancel")
        answer = client.get(job["links"]["events"], params={"after": 1}, headers=STREAM)
        assert [number for number, _, _ in events(answer.iter_lines())] == [2]

    @pytest.mark.parametrize("last", ["-1", "two", str(2**31)])
    def test_a_number_that_is_none(self, client: httpx.Client, last: str) -> None:
        job = submit(client)
        answer = client.get(job["links"]["events"], headers=STREAM | {"last-event-id": last})
        refused(answer, 422, "validation_failed", param="Last-Event-ID")

    def test_every_reader_hears_of_it(self, gateway: Gateway, client: httpx.Client) -> None:
        job = submit(client)

        async def read(many: httpx.AsyncClient, ready: asyncio.Semaphore) -> list[str]:
            async with many.stream("GET", job["links"]["events"], headers=STREAM) as answer:
                ready.release()
                return [line async for line in answer.aiter_lines() if line.startswith("id: ")]

        async def all_read() -> list[list[str]]:
            ready = asyncio.Semaphore(0)
            async with patient(client) as many:
                readers = [asyncio.create_task(read(many, ready)) for _ in range(5)]
                for _ in readers:
                    await ready.acquire()
                await asyncio.to_thread(append, gateway, job["id"], 5)
                await asyncio.to_thread(work.finish, gateway.database, job["id"])
                return await asyncio.gather(*readers)

        heard = asyncio.run(all_read())
        assert len(heard[0]) == 8
        assert all(each == heard[0] for each in heard)
