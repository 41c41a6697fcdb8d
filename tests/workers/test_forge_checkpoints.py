"""Checkpoints on their way from a forge's folder to a row: in the background, whatever becomes of the store."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.blobs.repository import Candidate, use
from services.jobs import lifecycle, repository
from services.jobs.types import Outcome
from services.tuning import retention
from shared.contracts.forge import Resume
from shared.contracts.jobs import EventType, State
from shared.db.models import Checkpoint
from shared.errors import DatabaseUnavailable
from tests.services.jobs import build
from tests.support import wait_until
from tests.support.stores import RunningStores
from tests.workers.conftest import FORGE, World
from tests.workers.test_forge import forge_of
from workers.runtime import checkpoints
from workers.runtime.checkpoints import Keeper, Policy, Written
from workers.runtime.database import Transactions
from workers.runtime.forge_told import Told
from workers.runtime.host import Host
from workers.runtime.work import Stop, Work

T = TypeVar("T")
_GARBAGE = text("SELECT sha256 FROM garbage WHERE tenant_id = :tenant")
_METRICS = text("SELECT step, values FROM job_metrics WHERE job_id = :id ORDER BY step")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a forge writes."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def claimed(world: World) -> Work:
    """A running job of this process."""
    world.forge_job()
    with world.database.transaction() as session:
        (claim,) = build.claim(session, queue=FORGE)
    return Work(claim)


def rows(world: World, job_id: UUID) -> list[Checkpoint]:
    with world.database.transaction() as session:
        return sorted(repository.checkpoints(session, world.tenant, job_id), key=lambda row: (row.step, row.attempt))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def steps(world: World, job_id: UUID) -> list[int]:
    return [row.step for row in rows(world, job_id)]


def written(folder: Path, step: int, *, best: bool = False) -> Written:
    """A checkpoint as a forge leaves it."""
    place = folder / f"checkpoint-{step}"
    place.mkdir()
    (place / "state.txt").write_text(f"step {step}")
    return Written(place, step, {"loss": 1.0 / step}, best=best)


def keeping(world: World, work: Work, policy: Policy, body: Callable[[Keeper, Host], Awaitable[T]]) -> T:
    """What `body` returns of a keeper on a worker's parts; its notes are forgotten."""
    host = world.runner(worker_pools=["serve"]).host

    async def run() -> T:
        keeper = Keeper(work, host, policy, note=lambda level, message: None)
        try:
            return await body(keeper, host)
        finally:
            await keeper.close()

    return asyncio.run(run())


class TestKeeping:
    def test_the_newest_and_the_best_stay(self, world: World, place: Path) -> None:
        work = claimed(world)

        async def body(keeper: Keeper, _: Host) -> None:
            for step in range(1, 7):
                keeper.add(written(place, step, best=step == 3))
                await keeper.settled()

        policy = Policy(retire=lambda session, claim: retention.retire(session, claim, keep=2))
        keeping(world, work, policy, body)
        kept = rows(world, work.id)
        assert [(row.step, row.best, row.metrics) for row in kept] == [
            (3, True, {"loss": 1 / 3}),
            (5, False, {"loss": 0.2}),
            (6, False, {"loss": 1 / 6}),
        ]
        assert list(place.iterdir()) == []

        with world.database.transaction() as session:
            garbage = {row.sha256 for row in session.execute(_GARBAGE, {"tenant": world.tenant})}
            gone = sha256(b"step 1").hexdigest()
            assert gone in garbage
            assert not use(session, Candidate(world.tenant, gone)).named
            assert use(session, Candidate(world.tenant, kept[0].manifest[0]["sha256"])).named

    def test_one_that_an_attempt_writes_again_takes_its_place(self, world: World, place: Path) -> None:
        work = claimed(world)

        async def body(keeper: Keeper, host: Host) -> Resume | None:
            for content in ("once", "again"):
                told = written(place, 4)
                (told.folder / "state.txt").write_text(content)
                keeper.add(told)
                await keeper.settled()
            return await checkpoints.resume(work, host, place / "in")

        resume = keeping(world, work, Policy(), body)
        assert steps(world, work.id) == [4]
        assert resume is not None
        assert (resume.folder / "state.txt").read_text() == "again"

    def test_what_cannot_be_stored_costs_the_run_nothing(self, world: World, place: Path) -> None:
        work = claimed(world)

        async def body(keeper: Keeper, _: Host) -> None:
            lost = written(place, 1)
            (lost.folder / "state.txt").unlink()
            (lost.folder / "bad\nname").write_text("")
            keeper.add(lost)
            await keeper.settled()
            keeper.add(written(place, 2))
            await keeper.settled()

        keeping(world, work, Policy(), body)
        assert steps(world, work.id) == [2]

    def test_another_attempt_stops_the_work(self, world: World, place: Path) -> None:
        work = claimed(world)
        with world.database.transaction() as session:
            lifecycle.end(session, [build.ending(work.claim, Outcome.LOST)])

        async def body(keeper: Keeper, _: Host) -> None:
            keeper.add(written(place, 1))
            await keeper.settled()

        keeping(world, work, Policy(), body)
        assert work.stop is Stop.FENCED
        assert steps(world, work.id) == []


@pytest.mark.faults
class TestStoreAway:
    def test_of_those_that_wait_the_newest_and_the_best_are_stored(
        self, world: World, place: Path, stores: RunningStores
    ) -> None:
        work = claimed(world)

        async def body(keeper: Keeper, _: Host) -> list[str]:
            stores.kill("store")
            for step in range(1, 6):
                keeper.add(written(place, step, best=step in (2, 3)))
                await asyncio.sleep(0)  # the first is on its way
            await asyncio.gather(*keeper._dropping)
            left = names(place)
            stores.restart("store")  # on this thread: a store dies with the one that started it
            await keeper.settled()
            return left

        assert keeping(world, work, Policy(), body) == ["checkpoint-1", "checkpoint-3", "checkpoint-5"]
        assert steps(world, work.id) == [1, 3, 5]

    @pytest.mark.timeout(60)
    def test_a_forge_works_on_and_its_job_ends_well(self, world: World, stores: RunningStores) -> None:
        job = world.forge_job(steps=60, step_seconds=0.05, checkpoint_every=5)
        world.runner()
        wait_until(lambda: steps(world, job), what="a checkpoint")
        stores.kill("store")
        try:
            wait_until(lambda: world.get(job).progress_done == 60, what="every step")
            assert world.state(job) == State.RUNNING
        finally:
            stores.restart("store")
        ended = world.wait_for(job, State.SUCCEEDED, timeout=30)
        assert (ended.attempt, steps(world, job)[-1]) == (1, 55)


class TestLost:
    @pytest.mark.timeout(60)
    def test_a_forge_that_is_killed_again_and_again_gets_there(self, world: World) -> None:
        job = world.forge_job(steps=60, step_seconds=0.05, checkpoint_every=4)
        world.execute("UPDATE jobs SET max_lost = 2, max_failures = 1 WHERE id = :id", id=job)
        world.runner(runner_poll_s=0.2)
        for attempt in (1, 2, 3):
            wait_until(partial(has_kept, world, job, attempt), what="it goes on")
            os.kill(forge_of(world, job).pid, signal.SIGKILL)
            wait_until(partial(is_beyond, world, job, attempt), what="another attempt")
        ended = world.wait_for(job, State.SUCCEEDED)
        assert (ended.attempt, ended.failure_count, ended.lost_count, ended.progress_done) == (4, 0, 1, 60)


def has_kept(world: World, job_id: UUID, attempt: int) -> bool:
    return any(row.attempt == attempt for row in rows(world, job_id))


def is_beyond(world: World, job_id: UUID, attempt: int) -> bool:
    return world.get(job_id).attempt > attempt


def figures(world: World, job_id: UUID) -> dict[int, dict[str, Any]]:
    with world.database.transaction() as session:
        found = session.execute(_METRICS, {"id": job_id})
        return {row.step: row.values for row in found}


class Moody(Transactions):
    """A database that is away at first."""

    away = True
    refused = False

    async def run(self, work: Callable[[Session], T]) -> T:
        if self.away:
            self.refused = True
            raise DatabaseUnavailable
        return await super().run(work)


class TestFigures:
    def test_parts_of_a_step_come_together_and_the_last_are_told(self, world: World) -> None:
        work, host = claimed(world), world.runner(worker_pools=["serve"]).host

        async def run() -> None:
            told = Told(work, host)
            told.measure(1, {"loss": 2.0})
            told.measure(2, {"loss": 1.5})
            await told.flush()
            told.measure(2, {"validation_loss": 1.7})
            told.measure(3, {"loss": 1.0})
            await told.flush()
            await told.settle()

        asyncio.run(run())
        assert figures(world, work.id) == {1: {"loss": 2.0}, 2: {"loss": 1.5, "validation_loss": 1.7}, 3: {"loss": 1.0}}
        with world.database.transaction() as session:
            events = repository.events(session, world.tenant, work.id)
        told = [row.data for row in events if row.type == EventType.METRICS]
        assert told == [{"step": 2, "values": {"loss": 1.5}}, {"step": 3, "values": {"loss": 1.0}}]

    def test_a_checkpoint_waits_for_the_figures_of_its_steps(self, world: World, place: Path) -> None:
        work, host = claimed(world), world.runner(worker_pools=["serve"]).host
        database = Moody(world.database)

        async def run() -> bool:
            told = Told(work, replace(host, transactions=database))
            told.measure(1, {"loss": 2.0})
            told.measure(2, {"loss": 1.5})
            keeper = Keeper(work, host, Policy(), note=told.note, first=told.catch_up)  # its own database is there
            keeper.add(written(place, 2))
            settling = asyncio.create_task(keeper.settled())
            await asyncio.to_thread(wait_until, lambda: database.refused, what="the figures are refused")
            before = steps(world, work.id) == []
            database.away = False
            await settling
            await keeper.close()
            return before

        assert asyncio.run(run())
        assert (steps(world, work.id), list(figures(world, work.id))) == ([2], [1, 2])

    def test_they_outlive_a_database_that_is_away(self, world: World) -> None:
        work, host = claimed(world), world.runner(worker_pools=["serve"]).host
        database = Moody(world.database)

        async def run() -> None:
            told = Told(work, replace(host, transactions=database))
            told.measure(1, {"loss": 2.0})
            await told.flush()
            told.measure(1, {"loss": 1.9})
            told.measure(2, {"loss": 1.5})
            settling = asyncio.create_task(told.settle())
            await asyncio.sleep(0)
            database.away = False
            await settling

        asyncio.run(run())
        assert figures(world, work.id) == {1: {"loss": 1.9}, 2: {"loss": 1.5}}
