"""Jobs in SQL: inserting and reading. Every method takes the tenant."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Select, func, or_, select, true, update
from sqlalchemy.orm import Session, make_transient_to_detached

from services.jobs.types import NewJob
from shared.contracts.jobs import Driver, State
from shared.db.models import Artifact, Attempt, Checkpoint, Job, JobEvent, JobItem, JobLog

_INSERT = """
WITH job AS (
  INSERT INTO jobs (id, tenant_id, kind, spec, request_sha256, metadata, gpu_class, queue, tier, priority,
  devices,
    plan, planned_gpu_s, driver, max_failures, max_lost, max_runtime_s, run_after, deadline_at, blocked,
    held_at, after_job_id, parent_id, root_id, retry_of, progress_total, progress_unit, webhook,
    webhook_secret)
  VALUES (:id, :tenant_id, :kind, :spec, :request_sha256, :metadata, :gpu_class, :queue, :tier, :priority,
  :devices,
    :plan, :planned_gpu_s, :driver, :max_failures, :max_lost, :max_runtime_s, COALESCE(:run_after,
    clock_timestamp()), :deadline_at, :blocked, CASE WHEN :held THEN clock_timestamp() END, :after_job_id,
    :parent_id, :root_id, :retry_of, :progress_total, :progress_unit, :webhook, :webhook_secret)
  RETURNING *),
told AS (
  INSERT INTO job_events (job_id, seq, tenant_id, type) SELECT id, 1, tenant_id, 'job.queued' FROM job)"""
_SHARE = """,
share AS (
  INSERT INTO fair_shares (queue, tier, tenant_id) VALUES (:queue, :tier, :tenant_id) ON CONFLICT DO NOTHING)"""
_BELL = """,
bell AS (INSERT INTO outbox (queue, available_at) SELECT queue, run_after FROM job)"""
_ITEMS = """,
items AS (
  INSERT INTO job_items (job_id, line_no, tenant_id, input)
  SELECT :id, :first_line + ordinality - 1, :tenant_id, value
  FROM jsonb_array_elements(:lines) WITH ORDINALITY)"""
_SELECT = "\nSELECT created_at, updated_at, run_after, held_at"
_RINGING = ", pg_notify('bells', :queue)"
_FROM = " FROM job"
_BIND = re.compile(r"(?<!:):(\w+)")
#: what the columns of a new row hold that nobody chose
_NEWBORN = {
    "state": State.QUEUED.value,
    **dict.fromkeys(("attempt", "failure_count", "lost_count", "prompt_tokens", "completion_tokens"), 0),
    **dict.fromkeys(("progress_done", "progress_mark"), 0),
    **dict.fromkeys(("event_seq", "version"), 1),
    **dict.fromkeys(("gpu_seconds", "cost"), 0.0),
    **dict.fromkeys(("cancel_requested_at", "cancel_reason", "lease_owner", "lease_id", "lease_expires_at")),
    **dict.fromkeys(("checkpoint_id", "error", "started_at", "finished_at")),
}
_CHOSEN = [name for name in NewJob.__dataclass_fields__ if name in Job.__table__.columns and name != "metadata"]


def insert(session: Session, new: NewJob) -> Job:
    """Write a job with its first event, its bell and its lines, in one statement.

    The path of every submit: the statement goes to the driver as it is, and the row is not read back but known
    (half the time of an ORM insert that returns its 51 columns).
    """
    driven = new.driver is Driver.WORKER
    rings = driven and not new.blocked and not new.held
    values = {name: getattr(new, name) for name in NewJob.__dataclass_fields__}
    for name in ("spec", "metadata", "plan", "webhook", "lines"):
        values[name] = None if values[name] is None else orjson.dumps(values[name]).decode()
    statement = _insertion(driven=driven, rings=rings, lines=bool(new.lines))
    row = session.connection().exec_driver_sql(statement, values).one()
    chosen = {name: getattr(new, name) for name in _CHOSEN}
    times = {name: getattr(row, name) for name in ("created_at", "updated_at", "run_after", "held_at")}
    job = Job(**(_NEWBORN | chosen | times), meta=new.metadata)
    make_transient_to_detached(job)
    session.add(job)
    return job


@cache
def _insertion(*, driven: bool, rings: bool, lines: bool) -> str:
    """The statement, in the driver's own spelling of parameters."""
    parts = (_INSERT, _SHARE if driven else "", _BELL if rings else "", _ITEMS if lines else "", _SELECT)
    return _BIND.sub(r"%(\1)s", "".join(parts) + (_RINGING if rings else "") + _FROM)


def get(session: Session, tenant_id: UUID, job_id: UUID, *, lock: bool = False) -> Job | None:
    """The job, if it is this tenant's."""
    query = select(Job).where(Job.id == job_id, Job.tenant_id == tenant_id).execution_options(populate_existing=True)
    return session.scalar(query.with_for_update() if lock else query)


def page(
    session: Session,
    tenant_id: UUID,
    *,
    limit: int,
    after: UUID | None = None,
    before: UUID | None = None,
    states: Sequence[str] = (),
    kinds: Sequence[str] = (),
    parent_id: UUID | None = None,
) -> list[Job]:
    """Newest first, keyset by id; children are listed only under their parent. Up to `limit` rows."""
    query: Select[Job] = select(Job).where(
        Job.tenant_id == tenant_id,
        Job.parent_id == parent_id if parent_id else Job.parent_id.is_(None),
        Job.state.in_(states) if states else true(),
        Job.kind.in_(kinds) if kinds else true(),
        Job.id < after if after else true(),
        Job.id > before if before else true(),
    )
    rows = list(session.scalars(query.order_by(Job.id if before else Job.id.desc()).limit(limit)))
    return rows[::-1] if before else rows


def recent_twin(session: Session, tenant_id: UUID, request_sha256: bytes, *, within_s: float) -> Job | None:
    """A job of the same body submitted in the last `within_s` seconds (an SDK's blind retry)."""
    return session.scalar(
        select(Job)
        .where(
            Job.tenant_id == tenant_id,
            Job.request_sha256 == request_sha256,
            Job.created_at > func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, within_s),
        )
        .order_by(Job.id.desc())
        .limit(1)
    )


def events(session: Session, tenant_id: UUID, job_id: UUID, *, after: int = 0, limit: int = 1000) -> list[JobEvent]:
    """Numbered events, oldest first, from `after` + 1 on."""
    return list(
        session.scalars(
            select(JobEvent)
            .where(JobEvent.tenant_id == tenant_id, JobEvent.job_id == job_id, JobEvent.seq > after)
            .order_by(JobEvent.seq)
            .limit(limit)
        )
    )


def logs(session: Session, tenant_id: UUID, job_id: UUID, *, after: int = 0, limit: int = 1000) -> list[JobLog]:
    """Log lines, oldest first."""
    return list(
        session.scalars(
            select(JobLog)
            .where(JobLog.tenant_id == tenant_id, JobLog.job_id == job_id, JobLog.id > after)
            .order_by(JobLog.id)
            .limit(limit)
        )
    )


def attempts(session: Session, tenant_id: UUID, job_id: UUID) -> list[Attempt]:
    """Attempts, first to last."""
    return list(
        session.scalars(
            select(Attempt).where(Attempt.tenant_id == tenant_id, Attempt.job_id == job_id).order_by(Attempt.attempt)
        )
    )


def artifacts(session: Session, tenant_id: UUID, job_ids: Sequence[UUID]) -> list[Artifact]:
    """Artifacts of these jobs in position order."""
    return list(
        session.scalars(
            select(Artifact)
            .where(Artifact.tenant_id == tenant_id, Artifact.job_id.in_(job_ids))
            .order_by(Artifact.job_id, Artifact.position)
        )
    )


def checkpoints(session: Session, tenant_id: UUID, job_id: UUID) -> list[Checkpoint]:
    """Checkpoints, newest first; corrupt ones included."""
    return list(
        session.scalars(
            select(Checkpoint)
            .where(Checkpoint.tenant_id == tenant_id, Checkpoint.job_id == job_id)
            .order_by(Checkpoint.step.desc(), Checkpoint.id.desc())
        )
    )


def mark_corrupt(session: Session, tenant_id: UUID, checkpoint_id: UUID) -> None:
    """Note that a checkpoint's blobs are not what they were: no attempt resumes from it again."""
    session.execute(
        update(Checkpoint).where(Checkpoint.tenant_id == tenant_id, Checkpoint.id == checkpoint_id).values(corrupt=True)
    )


def lines(
    session: Session,
    tenant_id: UUID,
    job_id: UUID,
    *,
    after: int = -1,
    limit: int = 500,
    pending: bool = False,
) -> list[JobItem]:
    """Lines of a job and of its children, in input order; only the unfinished ones with `pending`."""
    family = select(Job.id).where(Job.tenant_id == tenant_id, or_(Job.id == job_id, Job.parent_id == job_id))
    return list(
        session.scalars(
            select(JobItem)
            .where(
                JobItem.job_id.in_(family),
                JobItem.line_no > after,
                JobItem.status == "pending" if pending else true(),
            )
            .order_by(JobItem.line_no)
            .limit(limit)
        )
    )


def add_event(session: Session, job: Job, type_: str, data: dict[str, Any] | None = None) -> int:
    """Append a numbered event to a job whose row this transaction holds; returns its number."""
    job.event_seq += 1
    session.flush()
    session.add(JobEvent(job_id=job.id, seq=job.event_seq, tenant_id=job.tenant_id, type=type_, data=data or {}))
    session.flush()
    return job.event_seq
