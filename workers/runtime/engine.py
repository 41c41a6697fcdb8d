"""One engine as jobs see it: a model that answers, whatever becomes of the processes behind it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.clock import monotonic
from shared.contracts.jobs import JobError
from shared.telemetry import logger
from workers.runtime.client import EngineGone, Reply
from workers.runtime.engine_process import EngineFailed, EngineProcess
from workers.runtime.lane import Lane
from workers.runtime.slots import SlotName
from workers.runtime.work import Work

DEATHS: Final = 3  # of engines under one request, after which the request is to blame
ABORT_POLL_S: Final = 0.05
MOURN_S: Final = 1.0  # in which the end of a process is noticed after its socket broke
BUSY_WAIT_S: Final = 0.1  # the engine's own retry-after when it is full
BUSY = (429, 503)

log = logger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A model version: its digest, a name for people, and how its folder gets onto this host (blocks)."""

    digest: str
    name: str
    fetch: Callable[[], Path]


class Engine:
    """A model on devices. Processes come and go behind it; jobs ask it."""

    def __init__(self, model: ServedModel, slots: Sequence[SlotName], *, lane: Lane) -> None:
        self.model = model
        self.slots = tuple(slots)
        self.lane = lane
        self.users: set[Work] = set()
        self.used_at = monotonic()
        self.process: EngineProcess | None = None
        self.deaths = 0  #: since the last answer
        self.stopping = False
        self.keeper: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # ready, or given up
        self._failed: JobError | None = None

    def up(self, process: EngineProcess) -> None:
        """A process admits requests."""
        self.process = process
        self._settled.set()

    def down(self) -> None:
        """The process is gone; another one may come."""
        self.process = None
        self._settled.clear()

    def give_up(self, error: JobError) -> None:
        """No process will come any more; whoever waits is told why."""
        self.process, self._failed = None, error
        self._settled.set()

    async def ready(self) -> EngineProcess:
        """The process that admits requests, as soon as there is one.

        Raises:
            EngineFailed: it keeps dying, or cannot load the model.
        """
        while self.process is None:
            if self._failed is not None:
                raise EngineFailed(self._failed)
            await self._settled.wait()
        return self.process

    async def ask(self, work: Work, path: str, body: Any) -> Reply:
        """One request in the job's turn, sent again when the engine dies under it.

        Raises:
            EngineFailed: engines died `DEATHS` times under this request, or none comes up.
        """
        deaths = 0
        while deaths < DEATHS:
            process = await self.ready()
            try:
                async with self.lane.turn(work):
                    reply = await process.client.post(path, body)
            except EngineGone:
                deaths += 1
                await self._mourn(process)
                continue
            if reply.status in BUSY:
                await asyncio.sleep(BUSY_WAIT_S)
                continue
            self.deaths = 0
            return reply
        raise EngineFailed(
            JobError(code="engine_failed", title="The engine died repeatedly under this job", retryable=True)
        )

    async def _mourn(self, process: EngineProcess) -> None:
        """Wait until the keeper has noticed that the process is gone; one that lives only dropped the connection."""
        deadline = monotonic() + MOURN_S
        while self.process is process and monotonic() < deadline:  # noqa: ASYNC110 - bounded by the clock
            await asyncio.sleep(ABORT_POLL_S)

    async def forget_aborted(self, *, within_s: float) -> None:
        """Wait until the engine holds no more requests than the lane does; kill it when it does not let go in time."""
        process = self.process
        if process is None:
            return
        try:
            async with asyncio.timeout(within_s):
                while True:
                    before = self.lane.in_flight
                    stats = await process.stats()
                    if stats.running + stats.waiting <= max(before, self.lane.in_flight):
                        return
                    await asyncio.sleep(ABORT_POLL_S)
        except EngineGone:
            return  # dead engines generate nothing
        except TimeoutError:
            log.error("engine does not abort", extra={"engine": str(process.id)})  # noqa: TRY400
            await process.kill()
