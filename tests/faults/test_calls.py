"""Calls on a whole yard while its processes are killed (fault: an engine, a gateway, no worker at all)."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select

from shared.contracts.jobs import State
from shared.db.models import Attempt, Engine, Job
from tests.faults.conftest import quick_yard
from tests.faults.history import History
from tests.support.polling import wait_until
from tests.support.yards import RunningYard

pytestmark = pytest.mark.faults
STREAMS = 32
CHAT = "/v1/chat/completions"

Both = tuple[RunningYard, History]


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """A yard whose gateway waits no longer than a test does."""
    with quick_yard(tmp_path_factory.mktemp("calls"), place_wait_s=60) as both:
        chat(both[0], tokens=1)  # the engine is up
        yield both


def body(*, tokens: int, **extra: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "Tell me a long story."}
    return {"model": "yard-tiny", "messages": [message], "max_tokens": tokens, "ignore_eos": True, **extra}


def chat(yard: RunningYard, *, tokens: int) -> httpx.Response:
    with yard.client() as client:
        return client.post(CHAT, json=body(tokens=tokens), timeout=120).raise_for_status()


def follow(yard: RunningYard, number: int, begun: list[int]) -> tuple[str, list[str]]:
    """A stream to its end, whatever that is: the job's id, and the payloads. `begun` grows when its answer comes."""
    asked = body(tokens=300, stream=True, temperature=1, seed=number, cache={"mode": "off"})
    with yard.client() as client, client.stream("POST", CHAT, json=asked, timeout=180) as answer:
        assert answer.status_code == 200, answer.read()
        begun.append(number)
        lines: list[str] = []
        try:
            lines.extend(line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
        except httpx.TransportError:
            lines.append("broken")
    return answer.headers["x-job-id"], lines


def calls(history: History) -> list[Job]:
    with history.database.transaction() as session:
        return list(session.scalars(select(Job).where(Job.kind == "call")))


def running(history: History) -> int:
    return sum(job.state == State.RUNNING for job in calls(history))


def said(lines: list[str]) -> int:
    """Chunks of text that a stream brought."""
    return sum("content" in line and '"choices"' in line for line in lines)


class TestEngineKilled:
    def test_each_of_its_streams_ends_or_is_answered_by_the_next_one(self, yard: Both) -> None:
        place, history = yard
        begun: list[int] = []
        with ThreadPoolExecutor(STREAMS) as threads:
            streams = [threads.submit(follow, place, number, begun) for number in range(STREAMS)]
            wait_until(lambda: running(history) == STREAMS and begun, what="all are under way", timeout=60)
            with history.database.transaction() as session:
                pid = session.scalars(select(Engine.pid).where(Engine.state.in_(["ready", "busy"]))).one()
            os.kill(pid, signal.SIGKILL)
            ended = [each.result(150) for each in streams]

        whole = [job for job, lines in ended if lines[-1] == "[DONE]"]
        broken = [(job, lines) for job, lines in ended if lines[-1] != "[DONE]"]
        for _, lines in broken:
            assert json.loads(lines[-1])["error"]["code"] == "engine_lost"
        assert all(said(lines) <= 301 for _, lines in ended), "a stream was answered twice"
        for job in whole:
            assert history.finished(job)["state"] == State.SUCCEEDED
        for job, _ in broken:
            assert history.finished(job)["state"] == State.FAILED
        with history.database.transaction() as session:
            attempts = list(session.scalars(select(Attempt).where(Attempt.job_id.in_([UUID(job) for job, _ in ended]))))
        assert len(attempts) == STREAMS
        assert chat(place, tokens=4).status_code == 200, "capacity is back"


class TestGatewayKilled:
    def test_its_calls_end_as_client_gone_and_the_engine_lets_go(self, yard: Both) -> None:
        place, history = yard
        begun: list[int] = []
        with ThreadPoolExecutor(4) as threads:
            streams = [threads.submit(follow, place, number, begun) for number in range(4)]
            wait_until(lambda: len(begun) == 4, what="all are answered", timeout=60)
            old = place.kill("gateway")
            ended = [each.result(60) for each in streams]
        assert all(lines[-1] == "broken" for _, lines in ended)
        place.await_restart("gateway", old=old)
        for job, _ in ended:
            found = history.finished(job, timeout=30)
            assert (found["state"], found["error"]["code"]) == (State.FAILED, "client_gone")
        wait_until(lambda: chat(place, tokens=2), what="it answers again")


class TestHangUp:
    def test_the_engine_stops_at_once(self, yard: Both) -> None:
        place, history = yard
        asked = body(tokens=1500, stream=True)
        with place.client() as client, client.stream("POST", CHAT, json=asked, timeout=60) as answer:
            next(answer.iter_lines())
            job = answer.headers["x-job-id"]
        began = monotonic()
        assert history.finished(job)["state"] == State.CANCELLED
        assert monotonic() - began < 5


class TestDatabaseKilled:
    def test_a_stream_goes_on_and_its_end_is_written_later(self, yard: Both) -> None:
        place, history = yard
        begun: list[int] = []
        with ThreadPoolExecutor(1) as threads:
            stream = threads.submit(follow, place, 99, begun)
            wait_until(lambda: begun, what="the answer comes", timeout=60)
            old = place.kill("postgres")
            job, lines = stream.result(120)
        assert lines[-1] == "[DONE]"
        place.await_restart("postgres", old=old)
        found = history.finished(job, timeout=60)
        assert (found["state"], found["usage"]["completion_tokens"]) == (State.SUCCEEDED, 300)
