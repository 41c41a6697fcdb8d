"""The reaper, against real PostgreSQL: what it takes back, and when it had better not."""

from collections.abc import Callable
from time import monotonic

import pytest

from services.jobs import repository
from services.jobs.types import Outcome
from services.workers import service as workers
from shared.contracts.jobs import State
from shared.db.session import Database
from shared.failpoints import armed
from shared.ids import new_id
from shared.settings import Settings
from tests.support import wait_until
from tests.workers.world import World, make
from workers.schedule import Reaper


@pytest.fixture
def world(database: Database, settings: Settings) -> World:
    return make(database, settings)


class TestReaper:
    LEASE_S = 0.3

    @pytest.fixture
    def reaper(self, world: World) -> Reaper:
        brief = {"lease_ttl_s": self.LEASE_S, "reaper_tick_s": 0.2}
        return Reaper(world.database, world.settings.model_copy(update=brief))

    @staticmethod
    def tick(reaper: Reaper, happened: Callable[[], bool]) -> None:
        def ticked() -> bool:
            reaper.tick()
            return happened()

        wait_until(ticked, timeout=5)

    def test_waits_for_a_lease_of_peace_and_then_takes_back(self, world: World, reaper: Reaper) -> None:
        job, began = world.lose(), monotonic()
        self.tick(reaper, lambda: world.state(job) == State.QUEUED)
        assert monotonic() - began >= self.LEASE_S

    def test_an_outage_starts_the_wait_again(self, world: World, reaper: Reaper) -> None:
        reaper.tick()
        job = world.lose()
        reaper._database = Database("postgresql+psycopg://127.0.0.1:1/nothing")
        reaper.tick()
        reaper._database, began = world.database, monotonic()
        self.tick(reaper, lambda: monotonic() - began > self.LEASE_S * 0.7)
        assert world.state(job) == State.RUNNING

    def test_a_stop_of_the_process_starts_the_wait_again(self, world: World, reaper: Reaper) -> None:
        reaper.tick()
        job, began = world.lose(), monotonic()
        wait_until(lambda: monotonic() - began > 0.5)  # two ticks were missed
        reaper.tick()
        assert world.state(job) == State.RUNNING

    def test_a_death_before_the_commit_takes_back_once(self, world: World, reaper: Reaper) -> None:
        job = world.lose()
        with armed("reaper.after_update:raise@1"):
            self.tick(reaper, lambda: world.state(job) == State.QUEUED)
        with world.database.transaction() as session:
            assert [a.outcome for a in repository.attempts(session, world.tenant, job)] == [Outcome.LOST]

    def test_what_is_past_its_deadline_expires_at_once(self, world: World, reaper: Reaper) -> None:
        job = world.submit()
        world.execute("UPDATE jobs SET deadline_at = clock_timestamp() - interval '1 s'")
        reaper.tick()
        assert world.state(job) == State.EXPIRED

    def test_a_silent_worker_is_written_off(self, world: World, reaper: Reaper) -> None:
        world.worker()
        world.execute("UPDATE workers SET last_seen_at = clock_timestamp() - interval '61 s'")

        def written_off() -> bool:
            with world.database.transaction() as session:
                return workers.workers(session)[0].stopped_at is not None

        self.tick(reaper, written_off)

    def test_a_call_of_a_dead_gateway_fails(self, world: World, reaper: Reaper) -> None:
        job = world.submit()
        world.execute("UPDATE jobs SET driver = 'gateway'")
        world.execute(
            f"UPDATE jobs SET state = 'running', attempt = 1, lease_owner = '{new_id()}', lease_id = '{new_id()}',"
            " lease_expires_at = clock_timestamp() - interval '1 hour'"
        )
        world.execute(
            "INSERT INTO attempts (job_id, attempt, tenant_id, worker_id)"
            f" VALUES ('{job}', 1, '{world.tenant}', '{new_id()}')"
        )
        self.tick(reaper, lambda: world.state(job) == State.FAILED)
