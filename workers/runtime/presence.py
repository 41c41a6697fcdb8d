"""The worker as the platform sees it: its row, its engines' rows, and what its slots can take."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from services.workers import hardware
from services.workers import service as workers
from services.workers.types import Boot, Figures, LoadedEngine, Slots
from shared.clock import monotonic
from shared.contracts.jobs import Pool
from shared.errors import DatabaseUnavailable
from shared.ids import new_id
from shared.settings import Settings
from shared.telemetry import logger
from workers.runtime.database import Transactions
from workers.runtime.slots import CPU

COUNT_S = 0.05
SOONEST_S = 0.5  # between two heartbeats that only tell of slots

Noted = tuple[UUID, Figures]  #: an engine's id and its newest figures
Told = LoadedEngine | UUID | Noted  #: an engine to write, or the id of one to forget, or figures

log = logger(__name__)


class Presence:
    """Registers the worker and keeps its row alive. Used on the runner's loop."""

    def __init__(
        self,
        settings: Settings,
        transactions: Transactions,
        *,
        pools: Sequence[Pool],
        slots: Callable[[], Mapping[Pool, Slots]],
        renamed: Callable[[UUID], None],
    ) -> None:
        self.ids = [new_id()]  #: of this process; a worker that was written off registers as a new boot
        self.draining = False
        self._settings = settings
        self._transactions = transactions
        self._pools = pools
        self._slots = slots
        self._renamed = renamed
        self._engines: list[Told] = []
        self._told_engine = asyncio.Event()
        self._written = asyncio.Event()
        self._written.set()
        self._bell_at: float | None = None
        self._now = asyncio.Event()
        self._told: dict[Pool, bool] = {}
        self._counting: asyncio.TimerHandle | None = None

    @property
    def id(self) -> UUID:
        """The row's id."""
        return self.ids[-1]

    def rung(self) -> None:
        """A bell came."""
        self._bell_at = monotonic()

    def changed(self) -> None:
        """Capacity changed. Counting it costs more than noticing, so a burst of changes is counted once."""
        if self._counting is None:
            self._counting = asyncio.get_running_loop().call_later(COUNT_S, self._count)

    def _count(self) -> None:
        """The relay rings only for free slots, so the first free and the last taken one are told soon."""
        self._counting = None
        free = {pool: slots.free > 0 for pool, slots in self._slots().items()}
        if free != self._told:
            self._told = free
            self._now.set()

    def drain(self) -> None:
        """Tell everybody that no bell is wanted here any more."""
        self.draining = True
        self._now.set()

    def tell(self, engine: Told) -> None:
        """Record an engine or its figures, or forget one; in order, soon."""
        self._engines.append(engine)
        self._written.clear()
        self._told_engine.set()

    async def written(self) -> None:
        """Wait until all that was told of engines is committed."""
        await self._written.wait()

    async def run(self) -> None:
        """Register, then beat until cancelled."""
        gpu = None if self._settings.gpu_class == CPU else await asyncio.to_thread(hardware.gpu)
        described = workers.describe(
            self._settings.gpu_class,
            pools=self._pools,
            devices=self._settings.worker_devices,
            slots=self._slots(),
            gpu=gpu,
        )
        await self._register(described)
        await asyncio.gather(self._beat(described), self._write_engines())

    async def _register(self, described: Boot) -> None:
        boot = Boot(**{**vars(described), "id": self.id})
        await self._transactions.insist(lambda session, _: workers.register(session, boot))

    async def _beat(self, described: Boot) -> None:
        while True:
            try:
                if not await self._transactions.run(self._say):
                    self.ids.append(new_id())
                    log.warning("written off: registering anew", extra={"worker": str(self.id)})
                    await self._register(described)
                    self._renamed(self.id)
            except DatabaseUnavailable:
                log.warning("no sign of life given: database is away")
            await asyncio.sleep(SOONEST_S)
            try:
                async with asyncio.timeout(workers.HEARTBEAT_S - SOONEST_S):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()

    def _say(self, session: Session) -> bool:
        age = None if self._bell_at is None else monotonic() - self._bell_at
        return workers.heartbeat(session, self.id, slots=self._slots(), draining=self.draining, bell_age_s=age)

    async def _write_engines(self) -> None:
        """Write what was told, all that has gathered in one transaction."""
        while True:
            await self._told_engine.wait()
            self._told_engine.clear()
            told, self._engines = self._engines, []
            await self._transactions.insist(lambda session, _, told=told: _write(session, told))  # type: ignore[misc]
            if not self._engines:
                self._written.set()

    async def leave(self) -> None:
        """Note the end of the worker, if the database can be reached."""
        try:
            await self._transactions.run(lambda session: workers.stop(session, self.id))
        except DatabaseUnavailable:
            log.warning("could not unregister: database is away")


def _write(session: Session, told: Sequence[Told]) -> None:
    figures: list[Noted] = []
    for each in told:
        if isinstance(each, UUID):
            workers.remove_engine(session, each)
        elif isinstance(each, LoadedEngine):
            workers.put_engine(session, each)
        else:
            figures.append(each)
    if figures:
        workers.note_figures(session, figures)
