"""What this worker has claimed and runs: capacity is counted from it, claims add to it, ends take away."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import cache
from importlib import import_module
from uuid import UUID

from services.jobs import lifecycle
from services.jobs.kinds import kind
from services.jobs.types import Claim
from shared import failpoints
from shared.clock import monotonic
from shared.contracts.jobs import JobError, Pool, State
from shared.errors import DatabaseUnavailable, Fenced, ModelyardError
from shared.telemetry import logger
from workers.runtime.host import Host
from workers.runtime.slots import SlotName
from workers.runtime.work import Finish, JobFailed, Stop, Work

LARGEST_CLAIM = 64
SHARE_AFTER_S = 1.0  # a full worker leaves the next large job so long to one that has room
SHARING = 4  # large jobs that share a full engine; a fifth is left to another worker
UNWRITTEN = 4 * LARGEST_CLAIM  # ends that wait for their commit before claiming pauses
ECHO_S = 0.1  # a bell that found nothing may have met another claim's locks: look once more
DATABASE_WAIT_S = 1.0

log = logger(__name__)

Operation = Callable[[Work, Host], Awaitable[Finish]]


@cache
def operation(name: str) -> Operation:
    """The `run` of a kind's module: (work, host) → how the attempt ended; raises JobFailed, Fenced."""
    run: Operation = import_module(kind(name).operation).run
    return run


class Claims:
    """The claim loop of each pool, and the jobs that run. Used on the runner's loop."""

    def __init__(self, host: Host, queues: Mapping[Pool, str], *, worker_id: UUID, changed: Callable[[], None]) -> None:
        self.live: dict[UUID, Work] = {}
        self.worker_id = worker_id
        self.open = False  #: claiming; set once the slots are signed, cleared by a drain
        self._host = host
        self._queues = queues
        self._changed = changed
        self._bells = {pool: asyncio.Event() for pool in queues}
        self._closed = False
        self._doubt = False
        self._filled_at = -SHARE_AFTER_S

    def ring(self, pool: Pool | None = None) -> None:
        """Look for work of a pool, or of all."""
        for name, bell in self._bells.items():
            if pool in (None, name):
                bell.set()

    def close(self) -> None:
        """Claim nothing more; the loops end."""
        self.open, self._closed = False, True
        self.ring()

    def room(self, pool: Pool) -> int:
        """Places that a claim may fill now, counted from what runs."""
        if not self.open or sum(work.finishing for work in self.live.values()) > UNWRITTEN:
            return 0
        active = [work for work in self.live.values() if work.pool is pool and not work.finishing]
        return self._serve_room(active) if pool is Pool.SERVE else self._forge_room(active)

    def total(self, pool: Pool) -> int:
        """Places of an idle worker."""
        slots = len(self._host.devices.slots.usable(pool))
        return slots * self._host.settings.engine_max_in_flight if pool is Pool.SERVE else slots

    def _serve_room(self, active: Sequence[Work]) -> int:
        most = self._host.settings.engine_max_in_flight
        total = self.total(Pool.SERVE)
        left = total - sum(min(most, work.claim.width) for work in active)
        if left > 0:
            return min(LARGEST_CLAIM, left)
        waited = monotonic() - self._filled_at >= SHARE_AFTER_S
        return 1 if total and waited and len(active) < SHARING else 0

    def _forge_room(self, active: Sequence[Work]) -> int:
        stay = {slot for engine in self._host.engines if not engine.idle for slot in engine.slots}
        return self._forge_left(active, stay)

    def _pressing_room(self) -> int:
        """Devices that a forge job gets when the engines in use leave them.

        Only a poll asks: a bell brings the job to a worker with a free device, if there is one.
        """
        active = [work for work in self.live.values() if work.pool is Pool.FORGE and not work.finishing]
        stay = {slot for engine in self._host.engines if engine.model.serving.pinned for slot in engine.slots}
        return self._forge_left(active, stay) if self.open else 0

    def _forge_left(self, active: Sequence[Work], stay: Collection[SlotName]) -> int:
        engines = sum(slot.serves(Pool.FORGE) for slot in stay)
        return max(0, self.total(Pool.FORGE) - engines - sum(work.claim.devices for work in active))

    async def run(self, pool: Pool) -> None:
        """Claim whenever there is room and a reason to look, until `close`."""
        bell, echo = self._bells[pool], False
        while not self._closed:
            poll_s = self._host.settings.runner_poll_s * (0.5 + random.random() / 2)
            rung = await _wait(bell, ECHO_S if echo else poll_s)
            bell.clear()
            if not rung and pool is Pool.FORGE and self.room(pool) == 0:
                await self._take_group(pool, self._pressing_room())
            echo = not await self._take(pool) and rung and self.room(pool) > 0

    async def _take(self, pool: Pool) -> int:
        """Claim and start jobs until the room or the queue is used up; how many."""
        taken = 0
        while (room := self.room(pool)) > 0:
            claims, full = await self._take_group(pool, room)
            taken += claims
            if not full:
                break
        return taken

    async def _take_group(self, pool: Pool, room: int) -> tuple[int, bool]:
        """Claim and start what `room` holds: how many, and whether there may be more."""
        limit = min(room, 1) if pool is Pool.FORGE else room  # a forge job may need several of the free devices
        if not limit:
            return 0, False
        async with self._host.ledger.turn:
            claims = await self._claim(pool, limit=limit, devices=room)
            for claim in claims:
                self._begin(claim)
        full = sum(claim.width for claim in claims) >= limit
        if full and pool is Pool.SERVE:
            self._filled_at = monotonic()
            asyncio.get_running_loop().call_later(SHARE_AFTER_S, self._has_waited)
        return len(claims), full

    def _has_waited(self) -> None:
        """The others had their chance: there may be room to share a full engine."""
        self.ring(Pool.SERVE)
        self._changed()

    async def _claim(self, pool: Pool, *, limit: int, devices: int) -> list[Claim]:
        if pool is Pool.SERVE:
            devices = len(self._host.devices.slots.usable(pool))
        try:
            if self._doubt:
                await self._host.transactions.run(
                    lambda session: lifecycle.release_strays(session, self.worker_id, known=list(self.live))
                )
                self._doubt = False
            claims = await self._host.transactions.run(
                lambda session: lifecycle.claim(
                    session, self._queues[pool], worker_id=self.worker_id, limit=limit, devices=devices
                )
            )
            failpoints.hit("claim.after_commit")
        except Exception as error:
            # The claim may have been committed: what we hold without running is given back before the next one.
            self._doubt = True
            if not isinstance(error, DatabaseUnavailable):
                log.exception("claim failed")
            asyncio.get_running_loop().call_later(DATABASE_WAIT_S, self.ring, pool)
            return []
        return claims

    def _begin(self, claim: Claim) -> None:
        work = self.live[claim.job_id] = Work(claim)
        work.task = asyncio.get_running_loop().create_task(self._run(work))

    async def _run(self, work: Work) -> None:
        """One job from its claim to its end."""
        try:
            work.watch_time()
            finish = await self._work(work)
            work.finishing = True
            work.unwatch_time()
            self.ring(work.pool)  # its place is free while its end is being written
            if finish is None or await self._end(work, finish) is None:
                log.warning("fenced", extra={"job": str(work.id), "attempt": work.claim.attempt})
        except Exception:
            log.exception("end was not written", extra={"job": str(work.id)})  # its lease runs out
        finally:
            del self.live[work.id]
            self.ring(work.pool)  # a claim passes over a tenant whose share an end has locked: look again
            self._changed()

    async def _end(self, work: Work, finish: Finish) -> State | None:
        """Write how the work ended; rows that cannot be written (any more) make it a failure."""
        try:
            state = await self._host.ledger.end(finish)
        except Exception as error:
            await _undo(finish)
            if not isinstance(error, ModelyardError):
                raise
            return await self._host.ledger.end(work.failed(JobFailed.of(error)))
        if state is None:
            await _undo(finish)
        return state

    async def _work(self, work: Work) -> Finish | None:
        """What became of the work; None when another attempt owns the job, so that nothing may be written."""
        try:
            return await operation(work.claim.kind)(work, self._host)
        except asyncio.CancelledError:
            if work.stop is None:
                raise
            return None if work.stop is Stop.FENCED else work.stopped()
        except Fenced:
            return None
        except JobFailed as failure:
            return None if work.stop is Stop.FENCED else work.failed(failure)
        except Exception:
            log.exception("operation failed", extra={"job": str(work.id)})
            told = JobError(code="internal_error", title="The worker met an error of its own", retryable=True)
            return work.failed(JobFailed(told))


async def _undo(finish: Finish) -> None:
    """Take back what was prepared for rows that were not written."""
    if finish.undo is None:
        return
    try:
        await finish.undo()
    except Exception:
        log.exception("something is left behind", extra={"job": str(finish.ending.job_id)})


async def _wait(bell: asyncio.Event, timeout_s: float) -> bool:
    """Whether the bell rang in time."""
    try:
        async with asyncio.timeout(timeout_s):
            return await bell.wait()
    except TimeoutError:
        return False
