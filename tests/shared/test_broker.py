import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from shared import broker
from shared.broker import BrokerUnavailable
from shared.settings import Settings
from tests.support.configured import configured, environment
from tests.support.polling import wait_until
from tests.support.stores import RunningStores
from tests.support.webhooks import closed_port

CONSUMER = """
import sys, threading
from shared import broker, telemetry
telemetry.configure("test")
def wake(queue):
    with open(sys.argv[1], "a") as file:
        file.write(queue + "\\n")
stopping = threading.Event()
if sys.argv[2] == "--thread":
    del sys.argv[2]
    arguments = {"queues": sys.argv[2:], "wake": wake, "stopping": stopping}
    thread = threading.Thread(target=broker.consume, args=("test",), kwargs=arguments, daemon=True)
    thread.start()
    while True:
        thread.join()
status = broker.consume("test", queues=sys.argv[2:], wake=wake, stopping=stopping)
assert stopping.is_set()
sys.exit(status)
"""


@pytest.fixture
def settings(stores: RunningStores) -> Iterator[Settings]:
    with configured(stores.settings()) as here:
        yield here


@pytest.fixture
def broker_redis(stores: RunningStores) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(stores.broker_url)
    client.flushall()
    yield client
    client.close()


class Consumer:
    """A process that writes down each bell it hears."""

    def __init__(self, settings: Settings, folder: Path, *queues: str) -> None:
        self._heard = folder / "heard"
        self._log = folder / "log"
        self._heard.touch()
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CONSUMER, str(self._heard), *queues],
                env={**environment(settings), "PATH": os.environ["PATH"]},
                stderr=log,
            )

    @property
    def heard(self) -> list[str]:
        return self._heard.read_text().split()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def await_ready(self) -> None:
        wait_until(lambda: "ready." in self.log, timeout=30, what="the consumer is ready")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


@contextmanager
def consumer(settings: Settings, folder: Path, *queues: str) -> Iterator[Consumer]:
    started = Consumer(settings, folder, *queues)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


class TestRing:
    def test_a_bell_carries_a_name_and_nothing_else(self, settings: Settings, broker_redis: redis.Redis):
        broker.ring("cpu.serve", 3)
        messages = broker_redis.lrange("modelyard:cpu.serve", 0, -1)
        assert len(messages) == 3
        message = json.loads(messages[0])
        assert message["content-type"] == "application/json"
        assert message["headers"]["task"] == "modelyard.ring"
        assert message["headers"]["argsrepr"] == "['cpu.serve']"

    def test_a_flushed_broker_takes_bells_again(self, settings: Settings, broker_redis: redis.Redis):
        broker.ring("cpu.serve")
        broker_redis.flushall()
        broker.ring("cpu.serve")
        assert broker_redis.llen("modelyard:cpu.serve") == 1

    def test_a_broker_that_is_away_is_said_at_once(self, stores: RunningStores):
        away = f"redis://{closed_port().split('/')[2]}/0"
        with configured(stores.settings(broker_url=away)):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                broker.ring("cpu.serve")
            assert time.monotonic() - began < 3

    @pytest.mark.faults
    def test_a_broker_that_hangs_is_given_up(
        self, settings: Settings, stores: RunningStores, broker_redis: redis.Redis
    ):
        broker.ring("cpu.serve")
        pid = stores.children["broker"].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                broker.ring("cpu.serve")
            assert time.monotonic() - began < 10
        finally:
            os.kill(pid, signal.SIGCONT)
        broker.ring("cpu.serve")


class TestConsume:
    def test_bells_become_calls_and_sigterm_ends_it(
        self, settings: Settings, broker_redis: redis.Redis, tmp_path: Path
    ):
        broker.ring("control", 2)
        with consumer(settings, tmp_path, "control", "cpu.serve") as running:
            broker.ring("cpu.serve")
            wait_until(lambda: sorted(running.heard) == ["control", "control", "cpu.serve"], timeout=30)
            began = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - began < 5

    def test_in_a_thread_the_process_keeps_its_signals(
        self, settings: Settings, broker_redis: redis.Redis, tmp_path: Path
    ):
        broker.ring("control")
        with consumer(settings, tmp_path, "--thread", "control") as running:
            wait_until(lambda: running.heard == ["control"], timeout=30)
            assert running.stop() == -signal.SIGTERM

    def test_forged_messages_cost_nothing(self, settings: Settings, broker_redis: redis.Redis, tmp_path: Path):
        with consumer(settings, tmp_path, "control") as running:
            running.await_ready()
            broker.ring("control")
            wait_until(lambda: running.heard == ["control"], timeout=30)
            genuine = {"body": "W1siY29udHJvbCJdLHt9LHt9XQ==", "content-encoding": "utf-8"}
            for forged in (
                b"not json",
                b"{}",
                json.dumps({**genuine, "content-type": "application/x-python-serialize", **_envelope()}).encode(),
                json.dumps({**genuine, "content-type": "application/json", **_envelope(task="os.system")}).encode(),
                json.dumps(
                    {**genuine, "body": "W1siZWxzZSJdLHt9LHt9XQ==", "content-type": "application/json", **_envelope()}
                ).encode(),
            ):
                broker_redis.lpush("modelyard:control", forged)
            broker.ring("control")
            wait_until(lambda: len(running.heard) == 2, timeout=30, what="the next bell is heard")
            assert set(running.heard) == {"control"}
            assert running.stop() == 0

    @pytest.mark.faults
    def test_it_starts_without_a_broker_and_outlives_it(
        self, settings: Settings, stores: RunningStores, broker_redis: redis.Redis, tmp_path: Path
    ):
        process = stores.children["broker"]
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not process.ready, timeout=10)
        with consumer(settings, tmp_path, "control") as running:
            wait_until(lambda: "Cannot connect" in running.log, timeout=30)
            stores.restart("broker")
            broker.ring("control")
            wait_until(lambda: running.heard, timeout=60, what="it hears after a start without broker")

            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            stores.restart("broker")
            broker.ring("control")
            wait_until(lambda: len(running.heard) == 2, timeout=60, what="it hears after the broker's restart")
            assert running.stop() == 0


def _envelope(task: str = broker.RING) -> dict[str, object]:
    properties = {
        "correlation_id": "x",
        "reply_to": "x",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "control"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "x",
    }
    return {"headers": {"lang": "py", "task": task, "id": "x"}, "properties": properties}
