"""Engines end with their worker, in every way in which a worker can end."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import psutil
import pytest

from shared.contracts.engine import EXIT_FAILED, EXIT_LIFELINE
from tests.support.polling import wait_until
from tests.workers.engine.running import RunningEngine

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def engines(start_engine, tmp_path_factory):
    """Started together, because each spends seconds on its imports."""
    started = SimpleNamespace(
        adopted=start_engine(by_worker=True),
        forgotten=start_engine(by_worker=True),
        stopped=start_engine(drain_s=3, token="secret"),
        broken=start_engine(model_path=tmp_path_factory.mktemp("no-model")),
    )
    for engine in (started.adopted, started.forgotten, started.stopped):
        engine.wait_ready()
    return started


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def lifeline(engine: RunningEngine) -> Iterator[None]:
    """Hold a lifeline, as a worker does; leaving closes its connection."""
    transport = httpx.HTTPTransport(uds=str(engine.config.uds))
    with (
        httpx.Client(transport=transport, base_url="http://engine", headers=engine.client.headers) as client,
        client.stream("GET", "/lifeline", timeout=None) as response,
    ):
        lines = response.iter_lines()  # kept: httpx closes the connection with its iterator
        assert next(lines) == ": held"
        yield


class TestWorkersDeath:
    def test_a_killed_worker_takes_its_engine_along(self, start_engine):
        engine = start_engine(by_worker=True)
        wait_until(lambda: engine.pid, what="the engine runs")
        engine.process.kill()
        wait_until(lambda: gone(engine.pid), timeout=2, what="the engine is gone")

    def test_an_engine_whose_worker_was_gone_before_it_started_ends_at_once(self, start_engine):
        engine = start_engine(parent_pid=1 if os.getppid() != 1 else 2)
        assert engine.process.wait(timeout=30) == EXIT_LIFELINE


class TestDetach:
    def test_a_detached_engine_waits_for_the_next_worker_and_ends_with_that_one(self, engines):
        engine = engines.adopted
        # Given an engine that its worker lets go before it ends
        with lifeline(engine):
            assert engine.post_json("/detach", {"grace_s": 60}).json() == {"grace_s": 60}
            engine.process.kill()
            engine.process.wait()
        assert engine.stats().detached
        # When the next worker takes it over
        with lifeline(engine):
            stats = engine.stats()
            assert (stats.lifelines, stats.detached) == (1, False)
            assert engine.complete(prompt="x", max_tokens=2, ignore_eos=True)["finish_reason"] == "length"
        # Then it ends with that one
        wait_until(lambda: gone(engine.pid), timeout=2, what="the engine is gone")
        assert not engine.config.uds.exists()

    def test_a_detached_engine_that_nobody_wants_ends_after_its_grace(self, engines):
        engine = engines.forgotten
        engine.post_json("/detach", {"grace_s": 0.3})
        engine.process.kill()
        wait_until(lambda: gone(engine.pid), timeout=3, what="the engine is gone")

    def test_a_bad_grace_is_refused(self, engines):
        engine = engines.stopped
        for body in ({"grace_s": 0}, {"grace_s": float("1e9")}, {"grace_s": "60"}, {"grace": 60}):
            answer = engine.post_json("/detach", body)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] in body


class TestToken:
    def test_every_call_but_health_asks_for_the_token(self, engines):
        engine = engines.stopped
        transport = httpx.HTTPTransport(uds=str(engine.config.uds))
        with httpx.Client(transport=transport, base_url="http://engine") as stranger:
            assert stranger.get("/health").status_code == 200
            for path in ("/stats", "/v1/models", "/lifeline"):
                assert stranger.get(path).status_code == 401
                assert stranger.get(path, headers={"authorization": "Bearer guess"}).status_code == 401


class TestStop:
    def test_sigterm_finishes_what_is_short_aborts_what_is_long_and_admits_nothing(self, engines):
        engine = engines.stopped
        endings = {}

        def stream(name: str, tokens: int) -> None:
            body = {"model": "yard-tiny", "prompt": name, "max_tokens": tokens, "ignore_eos": True, "stream": True}
            with engine.client.stream("POST", "/v1/completions", json=body) as response:
                endings[name] = [line for line in response.iter_lines() if line][-1]

        # Given a long and a short request
        readers = [threading.Thread(target=stream, args=asked) for asked in (("long", 2000), ("short", 30))]
        for reader in readers:
            reader.start()
        wait_until(lambda: engine.stats().running == 2)
        # When the engine is told to stop
        os.kill(engine.pid, signal.SIGTERM)
        wait_until(lambda: engine.client.get("/health").status_code == 503)
        refused = engine.post("/v1/completions", prompt="x")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_draining")
        # Then the short one ends well, the long one is told, and the process is gone
        for reader in readers:
            reader.join()
        assert endings["short"] == "data: [DONE]"
        assert json.loads(endings["long"].removeprefix("data: "))["error"]["code"] == "engine_draining"
        assert engine.process.wait(timeout=5) == 0
        assert not engine.config.uds.exists()


class TestBadModel:
    def test_a_folder_without_a_model_is_said_once_and_ends_the_process(self, engines):
        assert engines.broken.process.wait(timeout=60) == EXIT_FAILED
        events = [json.loads(line)["event"] for line in engines.broken.log.read_text().splitlines()]
        assert events == ["starting", "load_failed", "stopped"]
