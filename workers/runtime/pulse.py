"""Signs of life: one statement renews the leases of all jobs, and brings back what their owners are asked to do."""

import asyncio
from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs import lifecycle
from services.jobs.types import Beat, Orders
from shared import failpoints, ids
from shared.clock import monotonic
from shared.errors import DatabaseUnavailable
from shared.telemetry import logger
from workers.runtime.claims import Claims
from workers.runtime.database import Transactions
from workers.runtime.work import Stop, Work

RETRY_S = 1.0
TELL_TICK_S = 0.25
TOLD_EVERY_S = 1.0  # progress events of a young job; later one for each percent of its age

log = logger(__name__)


class Pulse:
    """The heartbeat of the jobs that run. Used on the runner's loop."""

    def __init__(self, claims: Claims, transactions: Transactions, *, period_s: float) -> None:
        self._claims = claims
        self._transactions = transactions
        self._period_s = period_s
        self._now = asyncio.Event()

    def control(self, payload: str) -> None:
        """Somebody wants something of a job (of any, when there is no id): beat at once if it runs here."""
        if not payload or ids.parse(payload) in self._claims.live:
            self._now.set()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._period_s):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()
            if not await self._beat():
                asyncio.get_running_loop().call_later(RETRY_S, self._now.set)

    async def _beat(self) -> bool:
        works = sorted(self._claims.live.values(), key=lambda work: work.id)
        if not works:
            return True
        beats = [work.beat() for work in works]
        try:
            orders = await self._transactions.run(lambda session: _renew(session, beats))
        except DatabaseUnavailable:
            return False  # nobody can take over either: the work goes on
        for work in works:
            _obey(work, orders.get(work.id))
        return True

    async def tell(self) -> None:
        """Write progress events, until cancelled: at most one a second for each job."""
        while True:
            await asyncio.sleep(TELL_TICK_S)
            now = monotonic()
            due = [work for work in list(self._claims.live.values()) if _due(work, now)]
            if not due:
                continue
            beats = [work.beat() for work in sorted(due, key=lambda work: work.id)]
            for work in due:
                work.moved, work.told_at = False, now
            try:
                await self._transactions.run(lambda session, beats=beats: lifecycle.progress(session, beats))  # type: ignore[misc]
            except DatabaseUnavailable:
                log.warning("progress was not told")


def _renew(session: Session, beats: list[Beat]) -> dict[UUID, Orders]:
    failpoints.hit("hb.before")
    return lifecycle.beat(session, beats)


def _obey(work: Work, orders: Orders | None) -> None:
    if orders is None:
        work.halt(Stop.FENCED)
    elif orders.cancel:
        work.halt(Stop.CANCEL)
    elif orders.hold:
        work.halt(Stop.HOLD)


def _due(work: Work, now: float) -> bool:
    quiet = max(TOLD_EVERY_S, (now - work.started) / 100)
    return work.moved and not work.finishing and work.stop is None and now - work.told_at >= quiet
