"""Tunings as OpenAI's routes list them, in SQL: jobs by their metadata, and one stream of what happened in a job."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select, text, true
from sqlalchemy.orm import Session

from shared.db.models import Checkpoint, Job, Model, TuningJob

EVENT, LOG, METRIC = "event", "log", "metric"
_RANKS: Final = {EVENT: 0, LOG: 1, METRIC: 2}

# Three lists that each have an order of their own, in one by time. What progress and figures say as events, the rows
# of figures say better; what an adjustment says, its line of the log does.
_HAPPENED = text("""
SELECT source, number, created_at, level, told, data FROM (
  SELECT 'event' AS source, 0 AS rank, seq::bigint AS number, created_at, 'info' AS level, type AS told, data
    FROM job_events WHERE tenant_id = :tenant_id AND job_id = :job_id
      AND type NOT IN ('job.progress', 'job.metrics', 'job.adjusted')
  UNION ALL SELECT 'log', 1, id, created_at, level, message, '{}'::jsonb
    FROM job_logs WHERE tenant_id = :tenant_id AND job_id = :job_id
  UNION ALL SELECT 'metric', 2, step, created_at, 'info', '', "values"
    FROM job_metrics WHERE tenant_id = :tenant_id AND job_id = :job_id) AS happened
WHERE CAST(:rank AS integer) IS NULL
  OR (created_at, rank, number) < (SELECT CAST(:created_at AS timestamptz), CAST(:rank AS integer), :number)
ORDER BY created_at DESC, rank DESC, number DESC LIMIT :limit
""")

_FOUND = {
    EVENT: text(
        "SELECT created_at FROM job_events WHERE tenant_id = :tenant_id AND job_id = :job_id AND seq = :number"
    ),
    LOG: text("SELECT created_at FROM job_logs WHERE tenant_id = :tenant_id AND job_id = :job_id AND id = :number"),
    METRIC: text(
        "SELECT created_at FROM job_metrics WHERE tenant_id = :tenant_id AND job_id = :job_id AND step = :number"
    ),
}


@dataclass(frozen=True)
class Mark:
    """One thing that happened: which list it is of, and its number there."""

    source: str
    number: int


@dataclass(frozen=True)
class Happened:
    """What it was."""

    mark: Mark
    created_at: datetime
    level: str
    told: str  #: an event's type, a line of the log
    data: dict[str, Any]


def page(
    session: Session,
    tenant_id: UUID,
    *,
    limit: int,
    after: UUID | None = None,
    metadata: Mapping[str, str] | None = None,
) -> list[Job]:
    """Tunings, newest first, with all of these pairs; with an empty mapping, those that have no pairs."""
    wanted = true() if metadata is None else (Job.meta.contains(dict(metadata)) if metadata else Job.meta == {})
    query = select(Job).join(TuningJob, TuningJob.job_id == Job.id)
    mine = query.where(Job.tenant_id == tenant_id, Job.kind == "tuning", wanted, Job.id < after if after else true())
    return list(session.scalars(mine.order_by(Job.id.desc()).limit(limit)))


def of_jobs(session: Session, tenant_id: UUID, job_ids: Collection[UUID]) -> dict[UUID, TuningJob]:
    """The columns of jobs, by id."""
    query = select(TuningJob).where(TuningJob.tenant_id == tenant_id, TuningJob.job_id.in_(job_ids))
    return {row.job_id: row for row in session.scalars(query.execution_options(populate_existing=True))}


def models(session: Session, tenant_id: UUID, ids: Collection[UUID]) -> dict[UUID, Model]:
    """Versions by id, deleted or not."""
    query = select(Model).where(Model.tenant_id == tenant_id, Model.id.in_(ids))
    return {row.id: row for row in session.scalars(query)} if ids else {}


def checkpoints(
    session: Session, tenant_id: UUID, job_id: UUID, *, limit: int, after: Checkpoint | None = None
) -> Sequence[Checkpoint]:
    """Checkpoints that a later attempt could go on from, newest first."""
    mine = select(Checkpoint).where(
        Checkpoint.tenant_id == tenant_id, Checkpoint.job_id == job_id, Checkpoint.corrupt.is_(False)
    )
    if after is not None:
        mine = mine.where(
            (Checkpoint.step < after.step) | ((Checkpoint.step == after.step) & (Checkpoint.id < after.id))
        )
    return session.scalars(mine.order_by(Checkpoint.step.desc(), Checkpoint.id.desc()).limit(limit)).all()


def checkpoint(session: Session, tenant_id: UUID, job_id: UUID, id: UUID) -> Checkpoint | None:
    """One checkpoint of a job."""
    mine = select(Checkpoint).where(Checkpoint.tenant_id == tenant_id, Checkpoint.job_id == job_id)
    return session.scalar(mine.where(Checkpoint.id == id))


def happened(
    session: Session, tenant_id: UUID, job_id: UUID, *, limit: int, after: tuple[Mark, datetime] | None = None
) -> list[Happened]:
    """What happened in a job, newest first."""
    values: dict[str, Any] = {"rank": None, "created_at": None, "number": 0}
    if after is not None:
        mark, moment = after
        values = {"rank": _RANKS[mark.source], "created_at": moment, "number": mark.number}
    rows = session.execute(_HAPPENED, values | {"tenant_id": tenant_id, "job_id": job_id, "limit": limit})
    return [Happened(Mark(row.source, row.number), row.created_at, row.level, row.told, row.data) for row in rows]


def moment(session: Session, tenant_id: UUID, job_id: UUID, mark: Mark) -> datetime | None:
    """When something happened; None where nothing of that mark did."""
    values = {"tenant_id": tenant_id, "job_id": job_id, "number": mark.number}
    found: datetime | None = session.scalar(_FOUND[mark.source], values)
    return found
