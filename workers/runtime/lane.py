"""A lane: the requests that one engine holds, shared out among the jobs that use it.

Each job asks for a turn before each of its requests. While the engine is full, turns go round the jobs, one
each, so a job of a thousand lines and a job of one line are both served; a job alone has the whole engine.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.clock import monotonic
from workers.runtime.work import Work


class Lane:
    """The in-flight set of one engine of `size` requests on `devices` devices."""

    def __init__(self, size: int, *, devices: int = 1) -> None:
        self.size = size
        self._devices = devices
        self._flying: Counter[Work] = Counter()
        self._waiting: OrderedDict[Work, deque[asyncio.Future[None]]] = OrderedDict()
        self._since = monotonic()

    @property
    def in_flight(self) -> int:
        """Requests that the engine holds now."""
        return self._flying.total()

    @property
    def jobs(self) -> int:
        """Jobs that have a request in the engine."""
        return len(self._flying)

    @asynccontextmanager
    async def turn(self, work: Work) -> AsyncIterator[None]:
        """Hold one place in the engine for the length of a request, when it is this job's turn."""
        if self._waiting or self.in_flight >= self.size:
            await self._queue(work)
        else:
            self._enter(work)
        try:
            yield
        finally:
            self._leave(work)

    async def _queue(self, work: Work) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(work, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # the place was given in the same breath
                self._leave(work)
            raise

    def _enter(self, work: Work) -> None:
        self._charge()
        self._flying[work] += 1

    def _leave(self, work: Work) -> None:
        self._charge()
        self._flying[work] -= 1
        if not self._flying[work]:
            del self._flying[work]
        while self._waiting and self.in_flight < self.size:
            self._next()

    def _next(self) -> None:
        """Give a place to the job that has waited longest for its turn."""
        work, queue = self._waiting.popitem(last=False)
        future = queue.popleft()
        if queue:
            self._waiting[work] = queue  # at the end: the others come first
        if not future.done():
            self._enter(work)
            future.set_result(None)

    def _charge(self) -> None:
        """Share the time since the last change among the jobs, by their places: the device-seconds they pay for."""
        now = monotonic()
        spent, self._since = (now - self._since) * self._devices, now
        total = self.in_flight
        for work, places in self._flying.items():
            work.gpu_seconds += spent * places / total
