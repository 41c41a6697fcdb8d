"""The relay, against real PostgreSQL and Redis: in this process, and as the process that it is."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from statistics import median
from time import monotonic

import psutil
import pytest
import redis

from services.jobs import control_repository as control
from services.jobs import lifecycle
from services.workers.types import Capacity
from shared.db.session import Database
from shared.failpoints import armed
from shared.settings import Settings
from tests.services.jobs import build
from tests.support import wait_until
from tests.support.stores import RunningStores
from tests.workers.world import QUEUE, World, make
from workers.schedule import bells

MEMORY_BYTES = 150 * 2**20


@pytest.fixture
def world(database: Database, settings: Settings) -> World:
    return make(database, settings)


class TestBells:
    @pytest.mark.parametrize(
        ("due", "capacity", "count"),
        [
            (0, Capacity(1, 1, 1, 4), 0),
            (3, Capacity(0, 0, 0, 0), 0),  # nobody lives
            (3, Capacity(1, 0, 0, 0), 0),  # whoever lives is going
            (9, Capacity(1, 1, 1, 4), 1),  # one runner takes all that it can hold
            (9, Capacity(5, 5, 3, 3), 3),
            (2, Capacity(5, 5, 5, 50), 2),
            (9, Capacity(5, 5, 0, 0), 1),  # nobody was free a heartbeat ago
        ],
    )
    def test_no_more_than_slots_workers_and_work(self, due: int, capacity: Capacity, count: int) -> None:
        assert bells(due, capacity) == count


class TestRelay:
    def test_a_job_rings_its_queue_at_once(self, world: World) -> None:
        world.worker()
        with world.relay():
            job = world.submit()
            wait_until(world.bells, timeout=1)
            wait_until(world.quiet)
        assert world.claim() == [job]

    def test_accepted_to_rung_takes_milliseconds(self, world: World) -> None:
        world.worker()
        took = []
        with world.relay():
            for _ in range(15):
                wait_until(world.quiet)
                world.rung.clear()
                world.submit()
                accepted = monotonic()
                wait_until(world.bells, timeout=2, every=0.001)
                took.append(world.rung[0][2] - accepted)
                world.claim(limit=100)
        assert median(took) < 0.1, took  # 6 ms on an idle machine

    def test_a_burst_is_gathered(self, world: World) -> None:
        world.worker()
        with world.relay():
            for _ in range(50):
                world.submit()
            wait_until(world.quiet)
        assert 0 < world.bells() < 50

    def test_without_a_worker_nothing_is_rung(self, world: World) -> None:
        world.submit()
        with world.relay():
            wait_until(world.quiet)
        assert world.bells() == 0

    def test_a_later_job_is_rung_when_it_is_due(self, world: World) -> None:
        world.worker()
        job = world.submit(held=True)
        world.execute("UPDATE jobs SET run_after = clock_timestamp() + interval '0.5 s'")
        with world.database.transaction() as session:
            lifecycle.resume(session, world.tenant, job)
        with world.relay(relay_poll_s=60.0, reconcile_s=60.0):
            wait_until(world.bells, timeout=3)
            assert world.claim() == [job]

    def test_the_courier_is_rung_for_its_tasks(self, world: World) -> None:
        with world.relay():
            with world.database.transaction() as session:
                control.add_task(session, world.tenant, build.job(session, world.tenant).id, "expand")
            wait_until(lambda: world.bells("control"), timeout=2)

    def test_while_the_broker_is_away_rows_stay(self, world: World) -> None:
        world.worker()
        world.away = True
        with world.relay():
            world.submit()
            assert not world.quiet()
            world.away = False
            wait_until(world.bells)
            wait_until(world.quiet)

    def test_whoever_dies_after_ringing_rings_again(self, world: World) -> None:
        world.worker()
        world.submit()
        with armed("relay.after_publish:raise@1"), world.relay():
            wait_until(world.quiet)
        assert world.bells() >= 2

    def test_a_lost_bell_is_rung_again_soon(self, world: World) -> None:
        world.worker()
        world.submit()
        with world.relay():
            wait_until(lambda: world.bells() >= 2, timeout=2)

    def test_work_without_a_row_is_found(self, world: World) -> None:
        world.worker()
        world.submit()
        world.execute("DELETE FROM outbox")
        with world.relay():
            wait_until(world.bells, timeout=2)

    def test_work_that_is_taken_is_not_rung_again(self, world: World) -> None:
        world.worker()
        world.submit()
        world.claim()
        with world.relay():
            wait_until(world.quiet)
        assert world.bells() == 0

    def test_two_relays_lose_nothing(self, world: World) -> None:
        world.worker()
        with world.relay(), world.relay():
            for _ in range(10):
                world.submit()
            wait_until(world.bells)
            wait_until(world.quiet)


@pytest.fixture
def process(world: World, stores: RunningStores) -> Iterator[subprocess.Popen[bytes]]:
    # a poll longer than any test waits: it stops because it is told to
    given = stores.stores.settings() | {"database_url": world.database.url, "relay_poll_s": "60"}
    env = os.environ | {f"MODELYARD_{name.upper()}": value for name, value in given.items()}
    started = subprocess.Popen([sys.executable, "-m", "workers.schedule"], env=env, stderr=subprocess.PIPE)
    yield started
    started.kill()
    started.communicate()


class TestProcess:
    def test_rings_real_bells_stays_small_and_stops_at_once(
        self, process: subprocess.Popen[bytes], world: World, stores: RunningStores
    ) -> None:
        world.worker()
        with redis.Redis.from_url(stores.broker_url) as broker:
            broker.flushall()
            world.submit()
            wait_until(lambda: broker.llen(f"modelyard:{QUEUE}"), timeout=20)
            wait_until(world.quiet)
            broker.flushall()
        assert psutil.Process(process.pid).memory_info().rss < MEMORY_BYTES
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0
