"""The yard of engines: memory, idleness, death, hanging, and room for forges; with processes of a scripted server."""

import asyncio
import os
import signal
from typing import Any, cast

import pytest

from shared.contracts.jobs import Pool
from shared.db.session import Database
from shared.settings import Settings
from tests.support.configured import configured
from tests.workers.engine_yard import Job, engine_yard, greedy, until
from workers.runtime.engine import Engine
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.work import Work

pytestmark = pytest.mark.timeout(60)

#: room for two engines of 1 GiB: each takes 0.44 GiB besides its weights
TWO = {"engine_memory_gib": 3.0}
GPU: dict[str, Any] = {"gpu_class": "l40s", "worker_devices": [0, 1], "engine_yield_s": 0.5}


@pytest.fixture
def here(settings: Settings) -> Settings:
    with configured(settings) as configured_settings:
        return configured_settings


class TestMemory:
    def test_models_share_a_device_until_it_is_full_and_then_the_longest_unused_one_goes(
        self, here: Settings, database: Database
    ) -> None:
        async def scene() -> None:
            async with engine_yard(here, database, **TWO) as yard:
                await yard.load("a", gib=1)
                await yard.load("b", gib=1)
                assert yard.loaded == {"a", "b"}
                await yard.load("a", gib=1)
                await yard.load("c", gib=1)
                assert yard.loaded == {"a", "c"}

        asyncio.run(scene())

    def test_a_pinned_model_stays(self, here: Settings, database: Database) -> None:
        async def scene() -> None:
            async with engine_yard(here, database, **TWO) as yard:
                await yard.load("a", gib=1, pinned=True)
                await yard.load("b", gib=1)
                await yard.load("c", gib=1)
                assert yard.loaded == {"a", "c"}

        asyncio.run(scene())

    def test_what_fits_nowhere_is_refused_with_advice(self, here: Settings, database: Database) -> None:
        async def scene() -> None:
            async with engine_yard(here, database, **TWO) as yard:
                with pytest.raises(EngineFailed) as refused:
                    await yard.load("a", gib=4)
                assert refused.value.error.code == "engine_out_of_memory"
                assert "4.4 GiB" in str(refused.value.error.detail)
                assert yard.states == {"a": "failed"}

        asyncio.run(scene())

    def test_more_devices_than_there_are_are_refused_and_cost_nobody_an_engine(
        self, here: Settings, database: Database
    ) -> None:
        async def scene() -> None:
            async with engine_yard(here, database, **GPU) as yard:
                await yard.load("a")
                with pytest.raises(EngineFailed, match="needs 4 devices"):
                    await yard.load("b", tensor_parallel=4)
                assert yard.loaded == {"a"}

        asyncio.run(scene())

    def test_one_in_use_leaves_after_a_while_and_comes_back(self, here: Settings, database: Database) -> None:
        async def scene() -> None:
            async with engine_yard(here, database, engine_memory_gib=2.0, engine_yield_s=0.4) as yard:
                job = cast("Work", Job())
                async with yard.engines.use(job, yard.model("a", gib=1), devices=1) as first:
                    assert await yard.say(first, "x y", job) == "x y"
                    second = await yard.load("b", gib=1)
                    assert yard.loaded == {"b"}
                    assert await yard.say(first, "again", job) == "again"  # b idles: it makes room
                    assert second.process is None

        asyncio.run(scene())

    def test_the_next_start_knows_what_the_last_one_took(self, here: Settings, database: Database) -> None:
        async def scene() -> None:
            async with engine_yard(here, database, **TWO) as yard:
                engine = await yard.load("a", gib=1)
                assert engine.size.need.least > 2**30
                await yard.engines.vacate(engine.slots)
                engine = await yard.load("a", gib=1)
                assert 0 < engine.size.need.least < 2**28  # a Python process, not 1 GiB of weights

        asyncio.run(scene())


class TestIdleness:
    def test_an_unused_engine_is_unloaded_and_a_pinned_one_is_not(self, here: Settings, database: Database) -> None:
        async def scene() -> None:
            async with engine_yard(here, database, engine_idle_s=0.1) as yard:
                await yard.load("a")
                await yard.load("b", pinned=True)
                await until(lambda: yard.loaded == {"b"})
                await until(lambda: yard.states == {"b": "ready"})

        asyncio.run(scene())


class TestDeath:
    def test_a_hanging_engine_is_killed_and_replaced(self, here: Settings, database: Database) -> None:
        async def scene() -> None:
            async with engine_yard(here, database, engine_silent_s=0.5) as yard:
                job = cast("Work", Job())
                async with yard.engines.use(job, yard.model("a"), devices=1) as engine:
                    process = await engine.ready()
                    os.kill(process.pid, signal.SIGSTOP)
                    await until(lambda: engine.process not in {None, process}, within_s=40)
                    assert await yard.say(engine, "still here", job) == "still here"
                    assert engine.restarts == 1

        asyncio.run(scene())

    def test_one_that_dies_again_and_again_is_given_up_and_shown(self, here: Settings, database: Database) -> None:
        async def scene() -> None:
            async with engine_yard(here, database) as yard:
                with pytest.raises(EngineFailed):
                    await yard.load("a", engine="broken")
                (row,) = yard.rows.values()
                assert (row.state, row.figures.restarts) == ("failed", 3)
                assert row.error is not None
                assert row.error["code"] == "engine_failed"

        asyncio.run(scene())


class TestRenewal:
    def test_one_that_has_to_be_started_otherwise_comes_again_where_it_was_and_is_not_blamed(
        self, here: Settings, database: Database
    ) -> None:
        async def scene() -> None:
            async with engine_yard(here, database) as yard:
                engine = await yard.load("a")
                process, slots = engine.process, engine.slots
                assert process is not None
                engine.renewing = True
                await process.stop()
                await until(lambda: engine.process not in {None, process})
                assert (engine.slots, engine.restarts, engine.deaths, engine.leaving) == (slots, 0, 0, False)

        asyncio.run(scene())


class TestOutOfMemory:
    def test_half_the_batch_is_tried_twice(self, here: Settings, database: Database) -> None:
        async def scene() -> None:
            commands = {"scripted": greedy(fits=12)}
            async with engine_yard(
                here, database, engine_commands=commands, engine_max_in_flight=32, engine_headroom=16
            ) as yard:
                engine = await yard.load("a")
                assert (engine.size.in_flight, engine.size.headroom, engine.lane.size) == (8, 4, 8)
                assert await yard.say(engine, "it fits") == "it fits"

        asyncio.run(scene())

    def test_then_more_devices(self, here: Settings, database: Database) -> None:
        async def scene() -> None:
            commands = {"scripted": greedy(fits=1, wide=2)}
            async with engine_yard(
                here, database, engine_commands=commands, gpu_class="l40s", worker_devices=[0, 1]
            ) as yard:
                engine = await yard.load("a")
                assert (engine.size.ranks, len(engine.slots)) == (2, 2)
                assert engine.size.in_flight == here.engine_max_in_flight

        asyncio.run(scene())

    def test_then_it_fails_with_advice(self, here: Settings, database: Database) -> None:
        async def scene() -> None:
            async with engine_yard(here, database, engine_commands={"scripted": greedy(fits=1)}) as yard:
                with pytest.raises(EngineFailed) as failure:
                    await yard.load("a")
                error = failure.value.error
                assert (error.code, error.retryable) == ("engine_out_of_memory", False)
                assert "context_length" in str(error.detail)

        asyncio.run(scene())


class TestForge:
    """On a GPU, forges and engines want the same devices."""

    def test_takes_free_devices_first(self, here: Settings, database: Database) -> None:
        async def scene() -> None:
            async with engine_yard(here, database, **GPU) as yard:
                engine = await yard.load("a")
                (slot,) = await yard.devices.take(Pool.FORGE, 1, residents=yard.engines)
                assert slot not in engine.slots
                assert yard.loaded == {"a"}

        asyncio.run(scene())

    def test_then_those_of_an_idle_engine(self, here: Settings, database: Database) -> None:
        async def scene() -> None:
            async with engine_yard(here, database, **GPU) as yard:
                await yard.load("a")
                await yard.load("b")
                await yard.devices.take(Pool.FORGE, 1, residents=yard.engines)
                assert yard.loaded == {"b"}

        asyncio.run(scene())

    def test_then_those_of_the_engine_that_is_wanted_least_once_it_has_answered(
        self, here: Settings, database: Database
    ) -> None:
        async def scene() -> None:
            async with engine_yard(here, database, **GPU) as yard:
                users = [cast("Work", Job()) for _ in range(4)]
                async with (
                    yard.engines.use(users[0], yard.model("a"), devices=1) as wanted,
                    yard.engines.use(users[1], yard.model("a"), devices=1),
                    yard.engines.use(users[3], yard.model("a"), devices=1),
                    yard.engines.use(users[2], yard.model("b"), devices=1) as other,
                ):
                    await asyncio.gather(wanted.ready(), other.ready())
                    await slow_down(other)
                    answer = asyncio.create_task(yard.say(other, "one two three", users[2]))
                    await until(lambda: other.lane.in_flight == 1)
                    taken = await yard.devices.take(Pool.FORGE, 1, residents=yard.engines)
                    assert await answer == "one two three"
                    assert yard.loaded == {"a"}
                    assert yard.states == {"a": "ready"}
                    later = asyncio.create_task(yard.say(other, "later", users[2]))
                    yard.devices.give_back(taken)
                    assert await later == "later"

        asyncio.run(scene())


async def slow_down(engine: Engine) -> None:
    """Have its server take its time."""
    process = await engine.ready()
    await process.client.post("/script", {"word_s": 0.4})
