"""Finding a replica for a call; where there is none, saying so and waiting for one."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from gateway.calls.asking import Ask
from gateway.calls.errors import EngineBusy, EngineNotReady, EngineUnfit
from gateway.calls.replicas import Replicas, Seat, pick
from gateway.edge import Edge
from services.jobs.plan import Plan, choose
from services.placement import service as placement
from services.placement.service import REFRESH_S
from shared.clock import monotonic
from shared.contracts.jobs import JobError, Pool
from shared.contracts.serving import Mode
from shared.errors import DatabaseUnavailable
from shared.queues import AUTO

LOOK_S: Final = 0.05  #: between two looks at replicas that were full or broke off


@dataclass
class _Wanted:
    """A model that callers of this process wait for."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    until: float = 0.0  #: the demand is fresh
    plan: Plan | None = None


class Placer:
    """Places the calls of one process. Used on its loop."""

    def __init__(self, edge: Edge, replicas: Replicas) -> None:
        self._edge = edge
        self._replicas = replicas
        self._wanted: dict[tuple[UUID, Mode], _Wanted] = {}

    async def place(self, ask: Ask, *, until: float) -> Seat:
        """A replica for a call, waiting for one until `until` (monotonic).

        Raises:
            EngineNotReady: none came up in time. EngineBusy: all that there are stayed full.
            EngineUnfit: a worker says that it cannot serve the model. Unplaceable: no GPU class is large enough.
        """
        model, mode = ask.model, ask.endpoint.mode
        while True:
            changed = self._replicas.changed
            await self._replicas.fresh()
            seats = self._replicas.offered(model.digest, mode=mode, adapter=model.adapter_digest)
            if (seat := pick(seats, affinity=ask.given.affinity)) is not None:
                return seat
            if monotonic() >= until or self._edge.watch.closing:
                raise EngineBusy if any(not seat.failures for seat in seats) else self._late(ask)
            if seats:
                await asyncio.sleep(min(LOOK_S, max(0.0, until - monotonic())))
                continue
            await self._want(ask)
            with contextlib.suppress(TimeoutError):
                left = min(until - monotonic(), REFRESH_S)
                await asyncio.wait_for(changed.wait(), max(0.0, left))
                self._wanted[model.id, mode].until = 0.0  # look at the demand again: it may have been refused

    async def _want(self, ask: Ask) -> None:
        """Keep the demand fresh, once for all callers of this process. Raises EngineUnfit, Unplaceable."""
        wanted = self._wanted.setdefault((ask.model.id, ask.endpoint.mode), _Wanted())
        async with wanted.turn:
            if monotonic() < wanted.until:
                return

            def write(session: Session) -> tuple[Plan, JobError | None]:
                plan = choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=ask.model.needs(0))
                error = placement.want(
                    session,
                    tenant_id=ask.tenant_id,
                    model_id=ask.model.id,
                    mode=ask.endpoint.mode,
                    queue=plan.queue,
                    devices=plan.devices,
                )
                return plan, error

            with contextlib.suppress(DatabaseUnavailable):  # said again in a moment
                wanted.plan, error = await self._edge.transact(write)
                if error is not None:
                    raise EngineUnfit(error) if not error.retryable else EngineNotReady(_told(error))
                wanted.until = monotonic() + REFRESH_S

    def _late(self, ask: Ask) -> EngineNotReady:
        wanted = self._wanted.get((ask.model.id, ask.endpoint.mode))
        why = wanted.plan.reason if wanted is not None and wanted.plan is not None else "it was not asked for"
        if (host := self._replicas.beyond(ask.model.digest)) is not None:
            why = f"host {host} has one, on a Unix socket: its worker needs MODELYARD_ENGINE_BIND"
        return EngineNotReady(f"No engine of {ask.name} became ready in time: {why}.")


def _told(error: JobError) -> str:
    return f"{error.title}: {error.detail}" if error.detail else error.title
