"""The ledger: entries of many jobs share a commit, and none takes the others down."""

import asyncio
from uuid import UUID

import pytest
from sqlalchemy.exc import DBAPIError

from services.jobs.types import Claim, Ending, LineRecord, Outcome
from shared.clock import monotonic
from shared.contracts.jobs import State
from shared.errors import Fenced
from tests.services.jobs import build
from tests.workers.conftest import World
from workers.runtime.database import Transactions
from workers.runtime.ledger import Ledger
from workers.runtime.work import Finish


def claims(world: World, count: int) -> list[Claim]:
    world.jobs(count, lines=build.lines(1), progress_total=1)
    with world.database.transaction() as session:
        return build.claim(session, limit=count)


def finish(claim: Claim, *, attempt: int = 1) -> Finish:
    return Finish(claim.tenant_id, Ending(claim.job_id, attempt, Outcome.SUCCEEDED))


def line(claim: Claim, text: str, *, attempt: int = 1) -> LineRecord:
    return LineRecord(claim.job_id, attempt, 0, output={"text": text})


def recorded(world: World, job_id: UUID) -> int:
    return world.get(job_id).progress_done


class TestGroups:
    def test_stale_attempts_are_told_and_the_others_are_written(self, world: World) -> None:
        good, stale = claims(world, 2)

        async def scene() -> list[State | None]:
            ledger = Ledger(Transactions(world.database))
            return list(await asyncio.gather(ledger.end(finish(good)), ledger.end(finish(stale, attempt=7))))

        assert asyncio.run(scene()) == [State.SUCCEEDED, None]
        assert world.state(stale.job_id) == State.RUNNING

    def test_a_line_that_the_database_refuses_fails_alone(self, world: World) -> None:
        good, bad = claims(world, 2)

        async def scene() -> None:
            ledger = Ledger(Transactions(world.database))
            answers = await asyncio.gather(
                ledger.record(line(good, "fine")), ledger.record(line(bad, "\x00")), return_exceptions=True
            )
            assert answers[0] is None
            assert isinstance(answers[1], DBAPIError)

        asyncio.run(scene())
        assert (recorded(world, good.job_id), recorded(world, bad.job_id)) == (1, 0)

    def test_a_fenced_line_is_refused(self, world: World) -> None:
        (claim,) = claims(world, 1)

        async def scene() -> None:
            with pytest.raises(Fenced):
                await Ledger(Transactions(world.database)).record(line(claim, "late", attempt=2))

        asyncio.run(scene())
        assert recorded(world, claim.job_id) == 0

    def test_a_line_is_counted_once_however_often_it_is_written(self, world: World) -> None:
        (claim,) = claims(world, 1)

        async def scene() -> None:
            ledger = Ledger(Transactions(world.database))
            await ledger.record(line(claim, "once"))
            await ledger.record(line(claim, "again"))

        asyncio.run(scene())
        assert recorded(world, claim.job_id) == 1

    def test_a_line_with_time_waits_for_others_and_goes_with_the_first_that_has_none(self, world: World) -> None:
        alone, patient, quick = claims(world, 3)

        async def scene() -> None:
            ledger = Ledger(Transactions(world.database))
            began = monotonic()
            await ledger.record(line(alone, "one"), within_s=0.5)
            assert monotonic() - began >= 0.5
            async with asyncio.timeout(10):
                await asyncio.gather(
                    ledger.record(line(patient, "two"), within_s=60), ledger.record(line(quick, "three"))
                )

        asyncio.run(scene())
        assert [recorded(world, each.job_id) for each in (alone, patient, quick)] == [1, 1, 1]

    def test_a_line_whose_writer_was_stopped_is_written_by_a_flush(self, world: World) -> None:
        (claim,) = claims(world, 1)

        async def scene() -> None:
            ledger = Ledger(Transactions(world.database))
            writer = asyncio.create_task(ledger.record(line(claim, "answered"), within_s=60))
            await asyncio.sleep(0)
            writer.cancel()
            async with asyncio.timeout(10):
                await ledger.flush()
                await ledger.flush()

        asyncio.run(scene())
        assert recorded(world, claim.job_id) == 1
