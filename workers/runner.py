"""The runner: the worker's loop in one long-lived thread. It claims, runs, renews, finishes, and drains.

Engines and forges are started from this thread, because PR_SET_PDEATHSIG is bound to the thread that forks: it ends
last. Nothing here needs Redis: bells come through `wake`, wishes about jobs through NOTIFY, and a poll covers both.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.blobs.service import keeper
from services.jobs import lifecycle
from services.workers import service as workers
from services.workers.types import Slots as SlotCount
from shared.clock import monotonic
from shared.contracts.jobs import Pool
from shared.db.listen import Listener
from shared.db.session import Database
from shared.queues import queue_name
from shared.settings import Settings
from shared.storage import Store
from shared.telemetry import logger
from workers.runtime import leftovers
from workers.runtime.claims import Claims
from workers.runtime.database import THREADS, Transactions
from workers.runtime.demands import CHANNEL as DEMANDS
from workers.runtime.demands import Demands
from workers.runtime.folders import Folders
from workers.runtime.host import Host
from workers.runtime.ledger import Ledger
from workers.runtime.presence import Presence
from workers.runtime.processes import Identity
from workers.runtime.pulse import Pulse
from workers.runtime.reconciling import CHANNEL as ADAPTERS
from workers.runtime.slots import Slots, slot_names
from workers.runtime.work import Stop
from workers.runtime.yard import Yard

CONTROLS = "controls"  # the channel that names jobs of which something is wanted
SLOT_HASTE_S = 10.0  # for so long, slots of a worker that is just dying are looked at often
SLOT_POLL_S, SLOT_WAIT_S = 0.05, 1.0
HURRY_S = 5.0  # what a second SIGTERM leaves for the ends to be written
GONE_POLL_S = 0.02
AGAIN_S = 1.0  # before a task of the loop that failed starts again

log = logger(__name__)


class Runner:
    """One worker's runner. Its public methods may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queues = {Pool(name): queue_name(settings.gpu_class, Pool(name)) for name in settings.worker_pools}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="runner")
        self._leaving = asyncio.Event()
        self._detach = False
        self._assemble(Folders.of(settings))

    def _assemble(self, folders: Folders) -> None:
        settings, pools = self._settings, list(self._queues)
        url = settings.database_url.get_secret_value()
        database = Database(url, pool=THREADS + 1, name="modelyard-worker")  # one more for content that is stored
        transactions = Transactions(database)
        names = slot_names(settings.gpu_class, devices=settings.worker_devices, pools=pools)
        self._slots = Slots(folders.slots, names)
        self.presence = Presence(settings, transactions, pools=pools, slots=self._count, renamed=self._rename)
        store = Store.of(settings, keep=keeper(database, grace_s=settings.blob_grace_s))
        self._yard = Yard(
            settings,
            folders,
            slots=self._slots,
            transactions=transactions,
            store=store,
            presence=self.presence,
            freed=self._freed,
        )
        devices, engines = self._yard.devices, self._yard.engines
        self.host = Host(settings, folders, store, transactions, Ledger(transactions), devices, engines)
        self.claims = Claims(self.host, self._queues, worker_id=self.presence.id, changed=self.presence.changed)
        self._pulse = Pulse(self.claims, transactions, period_s=settings.heartbeat_s)
        self._demands = self._demanded()
        heard = {
            CONTROLS: self._pulse.control,
            DEMANDS: self._demands.ring if self._demands else _ignore,
            ADAPTERS: self._yard.adapters.ring,
        }
        self._listener = Listener(url, list(heard), lambda channel, payload: self._post(heard[channel], payload))

    def _demanded(self) -> Demands | None:
        if Pool.SERVE not in self._queues:
            return None
        return Demands(self.host, self._queues[Pool.SERVE], presence=self.presence, accepting=lambda: self.claims.open)

    @property
    def queues(self) -> list[str]:
        """The queues whose bells concern this worker."""
        return list(self._queues.values())

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    def wake(self, queue: str) -> None:
        """There may be work in `queue`: the body of a bell."""
        self._post(self._rung, queue)

    def drain(self, *, detach: bool = False) -> None:
        """Claim nothing more, release what runs, then end; with `detach` the engines wait for the next worker."""
        self._post(self._leave, detach)

    def hurry(self) -> None:
        """Give running work no more time."""
        self._post(self.host.hurried.set)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the thread; whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _post(self, action: Callable[..., None], *given: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the runner has ended
            self._loop.call_soon_threadsafe(action, *given)

    def _rung(self, queue: str) -> None:
        self.presence.rung()
        for pool, name in self._queues.items():
            if name == queue:
                self.claims.ring(pool)

    def _leave(self, detach: bool) -> None:  # noqa: FBT001 - called through the loop
        self._detach = detach
        self._leaving.set()

    def _freed(self) -> None:
        self.claims.ring()
        self.presence.changed()

    def _count(self) -> dict[Pool, SlotCount]:
        return {pool: SlotCount(self.claims.room(pool), self.claims.total(pool)) for pool in self._queues}

    def _rename(self, worker_id: UUID) -> None:
        """The row was written off, and there is a new one."""
        self.claims.worker_id = worker_id
        self._slots.sign(self.presence.ids)
        self._yard.rename(worker_id)

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._run())
        except Exception:
            log.exception("runner failed")
        finally:
            self._loop.close()

    async def _run(self) -> None:
        self._listener.start()
        steady = [self.presence.run, self._pulse.run, self._pulse.tell, self._hold_slots, self._yard.run]
        if self._demands:
            steady.append(self._demands.run)
        tasks = [asyncio.create_task(_lasting(work)) for work in steady]
        claiming = [asyncio.create_task(_lasting(lambda pool=pool: self.claims.run(pool))) for pool in self._queues]  # type: ignore[misc]
        await self._leaving.wait()
        await self._drain(claiming)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.presence.leave()
        self._slots.close()
        self.host.transactions.close(wait=not self.host.hurried.is_set())
        self.host.cache.close()

    async def _hold_slots(self) -> None:
        """Take the slots of this host, and with them what their dead holders had claimed; for ever."""
        leftovers.sweep(self.host.folders)
        await self.host.engines.adopt()
        haste_until = monotonic() + SLOT_HASTE_S
        while True:
            await self._take_slots()
            await asyncio.sleep(SLOT_POLL_S if monotonic() < haste_until else SLOT_WAIT_S)

    async def _take_slots(self) -> None:
        missing = len(self._slots.missing)
        dead = self._slots.acquire() - set(self.presence.ids)
        if self.claims.open and len(self._slots.missing) == missing:
            return
        if dead:
            lost = await self.host.transactions.insist(lambda session, _: _take_over(session, sorted(dead)))
            log.info("took over from a dead worker", extra={"workers": sorted(map(str, dead)), "jobs": lost})
        self._slots.sign(self.presence.ids)
        if not self.claims.open:
            log.info("claiming", extra={"after_s": round(Identity.of(os.getpid()).age_s, 3)})
        self.claims.open = not self._leaving.is_set()
        self._freed()

    async def _drain(self, claiming: list["asyncio.Task[None]"]) -> None:
        log.info("draining", extra={"jobs": len(self.claims.live), "detach": self._detach})
        self.presence.drain()
        self.claims.close()
        self._yard.close()
        if self._demands:
            self._demands.close()
        threading.Thread(target=self._listener.close, daemon=True).start()  # it takes a poll of its own
        await asyncio.wait(claiming, timeout=HURRY_S)
        hurried_at = monotonic() + self._settings.drain_grace_s
        while self.claims.live and monotonic() < hurried_at + HURRY_S:
            for work in list(self.claims.live.values()):
                work.halt(Stop.DRAIN)
            await asyncio.sleep(GONE_POLL_S)
            if self.host.hurried.is_set():
                hurried_at = min(hurried_at, monotonic())
        if self._detach:
            await self.host.engines.detach(grace_s=self._settings.engine_handover_s)
        else:
            await self.host.engines.stop()


def _take_over(session: Session, dead: Sequence[UUID]) -> int:
    """Queue the jobs of dead workers again, and write the workers off with their engines; how many jobs."""
    for worker_id in dead:
        workers.stop(session, worker_id)
    return lifecycle.release_owned(session, dead)


def _ignore(payload: str) -> None:
    """What a worker without the pool `serve` does with demands."""


async def _lasting(work: Callable[[], Awaitable[None]]) -> None:
    """A task of the loop that fails is told, and starts again: a runner is never half alive."""
    while True:
        try:
            return await work()
        except Exception:
            log.exception("task of the runner failed")
            await asyncio.sleep(AGAIN_S)
