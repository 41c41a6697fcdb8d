"""Jobs in SQL: inserting and reading. Every method takes the tenant."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, func, or_, select, true, update
from sqlalchemy.orm import Session

from services.jobs.insert_repository import insert_all
from services.jobs.types import NewJob, Wanted
from shared.db.models import Artifact, Attempt, Checkpoint, Job, JobEvent, JobItem, JobLog, JobMetric, Model

ALL = Wanted()


def insert(session: Session, new: NewJob) -> Job:
    """Write a job with its first event, its bell and its lines, in one statement."""
    return insert_all(session, [new])[0]


def get(session: Session, tenant_id: UUID, job_id: UUID, *, lock: bool = False) -> Job | None:
    """The job, if it is this tenant's."""
    query = select(Job).where(Job.id == job_id, Job.tenant_id == tenant_id).execution_options(populate_existing=True)
    return session.scalar(query.with_for_update() if lock else query)


def retries(session: Session, tenant_id: UUID, job_id: UUID) -> list[UUID]:
    """A job and the manual retries of its family, newest first."""
    root = select(func.coalesce(Job.root_id, Job.id)).where(Job.id == job_id, Job.tenant_id == tenant_id)
    again = (Job.root_id == root.scalar_subquery()) & Job.retry_of.is_not(None)
    query = select(Job.id).where(Job.tenant_id == tenant_id, (Job.id == job_id) | again)
    return list(session.scalars(query.order_by(Job.id.desc())))


def page(
    session: Session,
    tenant_id: UUID,
    *,
    limit: int,
    after: UUID | None = None,
    before: UUID | None = None,
    wanted: Wanted = ALL,
    parent_id: UUID | None = None,
) -> list[Job]:
    """Newest first, keyset by id; children are listed only under their parent. Up to `limit` rows."""
    query: Select[Job] = select(Job).where(
        Job.tenant_id == tenant_id,
        Job.parent_id == parent_id if parent_id else Job.parent_id.is_(None),
        Job.state.in_(wanted.states) if wanted.states else true(),
        Job.kind.in_(wanted.kinds) if wanted.kinds else true(),
        Job.after_job_id == wanted.after_job_id if wanted.after_job_id else true(),
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


def model_names(session: Session, tenant_id: UUID, ids: Sequence[UUID]) -> dict[UUID, str]:
    """What versions are called, of those that are not deleted."""
    living = select(Model.id, Model.name).where(Model.tenant_id == tenant_id, Model.deleted_at.is_(None))
    return {row.id: row.name for row in session.execute(living.where(Model.id.in_(ids)))} if ids else {}


def metrics(session: Session, tenant_id: UUID, job_id: UUID, *, after: int = -1, limit: int) -> list[JobMetric]:
    """Figures of steps, in their order, from the step behind `after` on."""
    mine = select(JobMetric).where(JobMetric.tenant_id == tenant_id, JobMetric.job_id == job_id, JobMetric.step > after)
    return list(session.scalars(mine.order_by(JobMetric.step).limit(limit)))


def drop_checkpoint(session: Session, job_id: UUID, *, attempt: int, step: int) -> list[str]:
    """Delete a checkpoint that an attempt writes anew, if it has one of this step; the digests that it named."""
    gone = delete(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.attempt == attempt, Checkpoint.step == step)
    rows = session.scalars(gone.returning(Checkpoint.manifest))
    return [entry["sha256"] for manifest in rows for entry in manifest]


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


def pending_lines(
    session: Session, tenant_id: UUID, job_id: UUID, *, after_turn: int = -1, limit: int
) -> list[JobItem]:
    """Unfinished lines of one job, in the order in which it runs them."""
    return list(
        session.scalars(
            select(JobItem)
            .where(
                JobItem.tenant_id == tenant_id,
                JobItem.job_id == job_id,
                JobItem.turn > after_turn,
                JobItem.status == "pending",
            )
            .order_by(JobItem.turn)
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
