"""A lane lets in whom its policy names, when it says so, on a running loop."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from shared.clock import monotonic
from shared.contracts.serving import Batching, Policy
from workers.runtime.batching.values import BrakedBy, Cost, Load
from workers.runtime.lane import LATELY_S, Lane


class Job:
    gpu_seconds = 0.0


@dataclass
class Desk:
    """Requests that stay in the engine until they are told to leave."""

    size: int
    batching: Batching
    load: Load | None = None
    job: Job = field(default_factory=Job)
    inside: list[asyncio.Event] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lane = Lane(self.size, batching=self.batching, load=lambda: self.load)

    def ask(self, count: int) -> None:
        self.tasks += [asyncio.create_task(self._one()) for _ in range(count)]

    async def _one(self) -> None:
        async with self.lane.turn(self.job, cost=Cost(10, 10)):
            leave = asyncio.Event()
            self.inside.append(leave)
            await leave.wait()

    async def holds(self, count: int, *, within_s: float = 2.0) -> float:
        """Wait until the engine holds so many; how long it took."""
        begun = monotonic()
        async with asyncio.timeout(within_s):
            while self.lane.in_flight != count:  # noqa: ASYNC110 - the lane tells nobody
                await asyncio.sleep(0.002)
        return monotonic() - begun

    def release(self, count: int) -> None:
        for leave in self.inside[:count]:
            leave.set()
        del self.inside[:count]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def play(scene: Callable[[Desk], Awaitable[None]], *, size: int = 4, **wishes: object) -> None:
    """A scene at one lane; afterwards everybody has left it."""

    async def run() -> None:
        desk = Desk(size, Batching.model_validate(wishes))
        try:
            await scene(desk)
        finally:
            await desk.close()
        figures = desk.lane.figures()
        assert (figures.in_flight, figures.waiting, figures.tokens, desk.lane.jobs) == (0, 0, 0, 0)

    asyncio.run(run())


class TestPolicies:
    def test_static_waits_for_the_end_of_the_batch(self) -> None:
        async def scene(desk: Desk) -> None:
            desk.ask(6)
            await desk.holds(4)
            desk.release(3)
            await desk.holds(1)
            desk.release(1)
            await desk.holds(2)

        play(scene, policy=Policy.STATIC, max_wait_ms=20)

    def test_a_small_batch_goes_when_its_time_has_come(self) -> None:
        async def scene(desk: Desk) -> None:
            desk.ask(2)
            assert await desk.holds(2) == pytest.approx(0.1, abs=0.08)

        play(scene, min_batch_size=3, max_wait_ms=100)

    def test_by_default_a_request_goes_at_once(self) -> None:
        async def scene(desk: Desk) -> None:
            desk.ask(1)
            await asyncio.sleep(0)
            assert desk.lane.in_flight == 1

        play(scene)

    def test_tokens_are_a_limit_of_their_own(self) -> None:
        async def scene(desk: Desk) -> None:
            desk.ask(20)
            await desk.holds(12)  # of 20 tokens each
            assert desk.lane.figures().tokens == 240

        play(scene, size=64, max_batch_tokens=256)


class TestBrake:
    def test_what_ends_is_not_replaced_until_the_load_is_gone(self) -> None:
        async def scene(desk: Desk) -> None:
            # Given a full engine
            desk.ask(16)
            await desk.holds(8)

            # When its cache is full, too
            desk.load = Load(kv_used=0.95)
            desk.release(6)
            await desk.holds(2)
            assert desk.lane.figures().braked_by is BrakedBy.KV

            # Then jobs come back by themselves when there is room
            desk.load = Load(kv_used=0.5)
            await desk.holds(8, within_s=0.5)

        play(scene, size=8)


class TestFigures:
    def test_what_left_a_moment_ago_is_remembered(self) -> None:
        async def scene(desk: Desk) -> None:
            desk.ask(3)
            await desk.holds(3)
            desk.release(2)
            await desk.holds(1)
            assert desk.lane.lately == 3
            await asyncio.sleep(LATELY_S + 0.05)
            assert desk.lane.lately == 1

        play(scene)

    def test_an_answer_counts_and_a_failure_does_not(self) -> None:
        async def scene(desk: Desk) -> None:
            desk.ask(2)
            await desk.holds(2)
            desk.release(1)
            desk.tasks[1].cancel()
            await desk.holds(0)
            figures = desk.lane.figures()
            assert (figures.admitted, figures.finished) == (2, 1)

        play(scene)
