"""Speed of a model on an engine: what is timed, what is told instead, and what a halt leaves behind."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session

from services.inference.models import ModelFacts
from services.jobs.types import Claim
from shared.contracts.serving import Serving
from shared.db.session import Database
from shared.settings import Settings
from tests.support.configured import configured
from tests.workers.engine_yard import EngineYard, engine_yard, until
from workers.operations.compression_speed import Speed, measure
from workers.runtime.engine import Engine
from workers.runtime.host import Host
from workers.runtime.work import Work

pytestmark = pytest.mark.timeout(60)

Scene = Callable[[EngineYard, Settings], Awaitable[None]]


@pytest.fixture
def play(settings: Settings, database: Database) -> Callable[..., None]:
    """Play a scene with engines of these settings."""

    def run(scene: Scene, **changes: Any) -> None:
        async def playing(settings: Settings) -> None:
            async with engine_yard(settings, database, **changes) as yard:
                await scene(yard, settings.model_copy(update=changes))

        with configured(settings) as here:
            asyncio.run(playing(here))

    return run


def work(gpu_class: str = "cpu") -> Work:
    return Work(
        Claim(
            job_id=uuid4(),
            tenant_id=uuid4(),
            kind="evaluation",
            spec={},
            queue=f"{gpu_class}.forge",
            gpu_class=gpu_class,
            tier=1,
            devices=1,
            plan={},
            attempt=1,
            lease_id=uuid4(),
            parent_id=None,
            checkpoint_id=None,
            progress_done=0,
            progress_total=None,
            seconds_left=None,
            max_runtime_s=None,
        )
    )


def facts(*, weight_bytes: int = 0) -> ModelFacts:
    return ModelFacts(
        id=uuid4(),
        base_id=uuid4(),
        name="m",
        kind="base",
        digest="m" * 8,
        adapter_digest=None,
        dtype="bf16",
        weight_bytes=weight_bytes,
        parameters=weight_bytes // 2,
        context_length=4096,
        kv_values_per_token=0,
        kv_heads=8,
        serving=Serving(),
    )


async def timed(
    yard: EngineYard, settings: Settings, job: Work, *, weight_bytes: int = 0, context: int = 4096, **serving: Any
) -> Speed:
    host = cast("Host", SimpleNamespace(settings=settings, engines=yard.engines, transactions=Unheard()))
    model = yard.model("m", context_length=context, **serving)
    return await measure(job, host, model, facts=facts(weight_bytes=weight_bytes), vocabulary=4000)


class Unheard:
    """Transactions of a job that has no row: its log lines go nowhere."""

    async def run(self, work: Callable[[Session], None]) -> None:
        del work


async def slow(engine: Engine) -> None:
    """Have the engine think for a second before each word."""
    assert engine.process is not None
    await engine.process.client.post("/script", {"word_s": 1.0})


class TestMeasure:
    def test_figures_come_from_streamed_answers_that_the_job_pays_for(self, play: Callable[..., None]) -> None:
        async def scene(yard: EngineYard, settings: Settings) -> None:
            job = work()
            speed = await timed(yard, settings, job)
            assert speed.not_served is None
            assert speed.served is not None
            assert (speed.served.prompt_tokens, speed.served.completion_tokens) == (128, 64)
            assert (speed.served.engine, speed.served.gpu_class, speed.served.devices) == ("scripted", "cpu", 1)
            assert 0 < speed.served.ttft_ms < 1000
            assert speed.served.tokens_per_second > 1
            assert speed.served.load_s > 0
            assert job.gpu_seconds > 0
            assert yard.loaded == {"m"}  # it stays, for whoever asks next
            await timed(yard, settings, work())
            (engine,) = yard.engines
            assert engine.process is not None
            asked = (await engine.process.client.get("/asked")).json()["data"]
            assert len({body["prompt"][0] for body in asked}) == len(asked) == 8  # no cache answers for the engine

        play(scene)

    def test_a_short_context_is_not_overrun(self, play: Callable[..., None]) -> None:
        async def scene(yard: EngineYard, settings: Settings) -> None:
            speed = await timed(yard, settings, work(), context=64)
            assert speed.served is not None
            assert speed.served.prompt_tokens + speed.served.completion_tokens < 64

        play(scene)


class TestNotServed:
    def test_a_class_that_cannot_hold_it(self, play: Callable[..., None]) -> None:
        async def scene(yard: EngineYard, settings: Settings) -> None:
            speed = await timed(yard, settings, work("l40s"), weight_bytes=10**15)
            assert speed == Speed(not_served="GPU class l40s cannot serve it.")

        play(scene, gpu_class="l40s")

    def test_an_engine_that_does_not_start(self, play: Callable[..., None]) -> None:
        async def scene(yard: EngineYard, settings: Settings) -> None:
            speed = await timed(yard, settings, work(), engine="broken")
            assert speed.served is None
            assert speed.not_served is not None
            assert speed.not_served.startswith("The engine")

        play(scene)

    def test_no_room_in_time(self, play: Callable[..., None]) -> None:
        async def scene(yard: EngineYard, settings: Settings) -> None:
            await yard.load("a", gib=2, pinned=True)
            speed = await timed(yard, settings, work())
            assert speed.served is None
            assert speed.not_served is not None
            assert "in use" in speed.not_served

        play(scene, engine_memory_gib=2.5, place_wait_s=0.3)


class TestHalt:
    def test_the_engine_lets_go_of_what_was_asked(self, play: Callable[..., None]) -> None:
        async def scene(yard: EngineYard, settings: Settings) -> None:
            engine = await yard.load("m", context_length=4096)
            await slow(engine)
            timing = asyncio.create_task(timed(yard, settings, work()))
            await until(lambda: engine.lane.in_flight == 1)
            timing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await timing
            assert (engine.lane.in_flight, engine.users) == (0, {})

        play(scene)
