"""Rows for tests of the job lifecycle, written through the real repositories."""

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs import lifecycle, repository
from services.jobs.types import Claim, Ending, NewJob, Outcome
from shared.contracts.jobs import JobError
from shared.db.models import Job, Tenant
from shared.ids import new_id

QUEUE = "cpu.serve"
BOOM = JobError(code="boom", title="It went wrong")


def tenant(session: Session, *, weight: float = 1.0) -> UUID:
    row = Tenant(id=new_id(), name=f"tenant-{new_id().hex}", weight=weight)
    session.add(row)
    session.flush()
    return row.id


def job(session: Session, tenant_id: UUID, **overrides: Any) -> Job:
    fields: dict[str, Any] = {
        "id": new_id(),
        "tenant_id": tenant_id,
        "kind": "probe",
        "spec": {"steps": 0},
        "gpu_class": "cpu",
        "queue": QUEUE,
        "tier": 1,
        "priority": 5,
        "devices": 1,
        "plan": {},
        "planned_gpu_s": 1.0,
        "max_failures": 3,
        "max_lost": 3,
    }
    return repository.insert(session, NewJob(**(fields | overrides)))


def lines(count: int) -> tuple[dict[str, Any], ...]:
    return tuple({"prompt": f"line {number}"} for number in range(count))


def claim(session: Session, *, limit: int = 1, queue: str = QUEUE, worker: UUID | None = None) -> list[Claim]:
    return lifecycle.claim(session, queue, worker_id=worker or new_id(), limit=limit)


def ending(claimed: Claim, outcome: Outcome, **extra: Any) -> Ending:
    if outcome in (Outcome.FAILED, Outcome.LOST):
        extra.setdefault("error", BOOM)
    return Ending(claimed.job_id, claimed.attempt, outcome, **extra)


def state(session: Session, job_id: UUID) -> str:
    return session.get_one(Job, job_id, populate_existing=True).state
