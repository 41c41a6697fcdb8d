"""A lane: the requests of jobs that one engine holds, let in by the model's batching policy.

Each job asks for a turn before each of its requests. The policy decides how many go in and when; turns go round the
jobs, one each, so a job of a thousand lines and a job of one line are both served. While interactive calls are in
flight the lane gives way to them.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from shared.clock import monotonic
from shared.contracts.serving import Batching
from workers.runtime.batching.batcher import Batcher
from workers.runtime.batching.values import Cost, LaneFigures, Load, Request

DEFAULT: Final = Batching()
LATELY_S: Final = 0.5  # from the moment that an engine counts until its figures are compared with the lane's


class Payer(Hashable, Protocol):
    """A job, as much of it as a lane needs."""

    gpu_seconds: float  #: that it has to pay for


@dataclass(slots=True)
class Turn:
    """A place in the engine. Who knows how many tokens the answer had says so, and the brake learns from it."""

    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class _Asker:
    work: Payer
    admitted: "asyncio.Future[None]"


class Lane:
    """The in-flight set of one engine of `size` requests on `devices` devices.

    `load` tells what else the engine has to do, from its latest figures; null when nobody knows. It is called
    often, and must not block.
    """

    def __init__(
        self,
        size: int,
        *,
        devices: int = 1,
        batching: Batching = DEFAULT,
        load: Callable[[], Load | None] = lambda: None,
    ) -> None:
        self.size = size
        self._devices = devices
        self._batcher = Batcher(batching, size=size, load=load)
        self._askers: dict[Request, _Asker] = {}
        self._flying: Counter[Payer] = Counter()
        self._peaks: deque[tuple[float, int]] = deque()  # before a request left; only those no later one exceeds
        self._since = monotonic()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        """Requests that the engine holds now."""
        return self._flying.total()

    @property
    def lately(self) -> int:
        """The most that it held within `LATELY_S`: figures of the engine are older than what the lane knows."""
        while self._peaks and self._peaks[0][0] < monotonic() - LATELY_S:
            self._peaks.popleft()
        return max(self.in_flight, self._peaks[0][1] if self._peaks else 0)

    @property
    def jobs(self) -> int:
        """Jobs that have a request in the engine."""
        return len(self._flying)

    def figures(self) -> LaneFigures:
        """The lane at this moment, for metrics."""
        return self._batcher.figures(monotonic())

    @asynccontextmanager
    async def turn(self, work: Payer, *, cost: Cost | None = None) -> AsyncIterator[Turn]:
        """Hold one place in the engine for the length of a request, when it is this job's turn.

        A block that raises counts as a request without an answer.
        """
        request = await self._queue(work, cost)
        turn = Turn()
        try:
            yield turn
        except BaseException:
            self._leave(request, work)
            raise
        self._leave(request, work, turn)

    async def _queue(self, work: Payer, cost: Cost | None) -> Request:
        """Wait for the place."""
        request = self._batcher.offer(work, cost, now=monotonic())
        asker = self._askers[request] = _Asker(work, asyncio.get_running_loop().create_future())
        self._admit()
        try:
            if not asker.admitted.done():
                await asker.admitted
        except asyncio.CancelledError:
            if request in self._askers:
                del self._askers[request]
                self._batcher.withdraw(request)
            else:  # the place was given in the same breath
                self._leave(request, work)
            raise
        return request

    def _admit(self) -> None:
        """Let in whom the policy names, and ask it again when it says so."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = monotonic()
        admitted, again = self._batcher.admit(now)
        if admitted:
            self._charge()
        for request in admitted:
            asker = self._askers.pop(request)
            self._flying[asker.work] += 1
            if not asker.admitted.done():
                asker.admitted.set_result(None)
        if again is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, again - now), self._admit)

    def _leave(self, request: Request, work: Payer, turn: Turn | None = None) -> None:
        self._charge()
        while self._peaks and self._peaks[-1][1] <= self.in_flight:
            self._peaks.pop()
        self._peaks.append((monotonic(), self.in_flight))
        self._flying[work] -= 1
        if not self._flying[work]:
            del self._flying[work]
        if turn is None:
            self._batcher.dropped(request, now=monotonic())
        else:
            self._batcher.answered(request, now=monotonic(), output_tokens=turn.output_tokens)
        self._admit()

    def _charge(self) -> None:
        """Share the time since the last change among the jobs, by their places: the device-seconds they pay for."""
        now = monotonic()
        spent, self._since = (now - self._since) * self._devices, now
        total = self.in_flight
        for work, places in self._flying.items():
            work.gpu_seconds += spent * places / total
