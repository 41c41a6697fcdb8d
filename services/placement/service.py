"""Placement: which engines answer for a model, and what callers wait for when none does.

A gateway that holds a caller without an engine `want`s its model every `REFRESH_S`. Workers of the queue hear of it
(`NOTIFY demands`, payload: the queue), `claim` it, start an engine or load an adapter, and `settle` or `refuse` it.
Gateways hear of both, and of every engine that comes or goes, through `NOTIFY engines` (payload: the base's digest).
What nobody waits for yet is in `ahead`.
Nothing here commits.
"""

from uuid import UUID

from sqlalchemy.orm import Session

from services.placement import repository
from services.placement.types import Demand, Replica
from services.workers.service import LIVE_S
from shared.contracts.jobs import JobError
from shared.contracts.serving import Mode
from shared.settings import settings

REFRESH_S = 5.0  #: period in which a gateway repeats what it wants
FRESH_S = 3 * REFRESH_S  #: a demand that nobody repeated for so long is nobody's
TOLD_S = 5.0  #: how long a refusal answers further callers, and keeps workers from trying again
FETCH_S = 600.0  #: what fetching a model may add to starting its engine before another worker may try


def replicas(session: Session, *, digest: str | None = None, mode: Mode | None = None) -> list[Replica]:
    """Engines of live workers that admit requests; of one base model, of one mode when asked."""
    rows = repository.replicas(session, live_s=LIVE_S, digest=digest, mode=None if mode is None else mode.value)
    return [
        Replica(
            id=row.id,
            worker_id=row.worker_id,
            host=row.host,
            gpu_class=row.gpu_class,
            digest=row.digest,
            kind=row.kind,
            address=row.address,
            devices=len(row.devices),
            modes=tuple(row.modes),
            max_in_flight=row.max_in_flight,
            adapters=frozenset(row.adapters),
            token=row.token,
            stats=row.stats,
        )
        for row in rows
    ]


def want(
    session: Session, *, tenant_id: UUID, model_id: UUID, mode: Mode, queue: str, devices: int = 1
) -> JobError | None:
    """Say that a caller waits for this model, base or adapter; repeated every `REFRESH_S` while it waits.

    Returns why a worker could not serve it within the last `TOLD_S`, else None.
    """
    demand = Demand(tenant_id, model_id, mode, queue, devices)
    error = repository.want(session, demand, told_s=TOLD_S)
    return None if error is None else JobError.model_validate(error)


def claim(session: Session, worker_id: UUID, *, queue: str, limit: int) -> list[Demand]:
    """Take up to `limit` demands that callers wait for now, no engine serves and no live worker is working on.

    They are this worker's until it settles or refuses them, dies, or `engine_start_s` + `FETCH_S` have passed.
    """
    claim_s = settings().engine_start_s + FETCH_S
    rows = repository.claim(
        session,
        worker_id,
        queue=queue,
        limit=limit,
        fresh_s=FRESH_S,
        told_s=TOLD_S,
        claim_s=claim_s,
        live_s=LIVE_S,
    )
    return [Demand(row.tenant_id, row.model_id, Mode(row.mode), row.queue, row.devices, row.ahead) for row in rows]


def refuse(session: Session, demand: Demand, *, error: JobError) -> None:
    """Give a demand back unmet: whoever waits for it is told `error` at once."""
    repository.refuse(session, demand, error=error)


def drop(session: Session, demand: Demand) -> None:
    """Give up a demand of `ahead.foresee`: what is in use here leaves no room. Callers that came since keep it."""
    repository.drop(session, demand)


def settle(session: Session, demand: Demand) -> None:
    """The engine is ready, and its row says so: the demand is met."""
    repository.settle(session, demand)
