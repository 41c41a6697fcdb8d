"""The worker as the platform sees it: its row, its engines' rows, and what its slots can take."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from services.workers import hardware
from services.workers import service as workers
from services.workers.types import Boot, LoadedEngine, Slots
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
        self._engines: asyncio.Queue[LoadedEngine | UUID] = asyncio.Queue()
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

    def tell(self, engine: LoadedEngine | UUID) -> None:
        """Record an engine, or forget one; in order, soon."""
        self._engines.put_nowait(engine)

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
        while True:
            engine = await self._engines.get()
            await self._transactions.insist(lambda session, _, engine=engine: _write(session, engine))  # type: ignore[misc]

    async def leave(self) -> None:
        """Note the end of the worker, if the database can be reached."""
        try:
            await self._transactions.run(lambda session: workers.stop(session, self.id))
        except DatabaseUnavailable:
            log.warning("could not unregister: database is away")


def _write(session: Session, engine: LoadedEngine | UUID) -> None:
    if isinstance(engine, UUID):
        workers.remove_engine(session, engine)
    else:
        workers.put_engine(session, engine)
