"""What attempts of tuning and merging write of their jobs, in SQL. The caller holds the fence."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from shared.db.models import Checkpoint, JobMetric, TuningJob

PAGE = 5000  #: rows of metrics in memory at once


def finish(session: Session, job_id: UUID, **results: Any) -> None:
    """Write what came of a job: `figures`, `trained_tokens`, `result_model_id`, `artifact_id`, `result_file_id`."""
    session.execute(update(TuningJob).where(TuningJob.job_id == job_id).values(results))


def relieve(session: Session, job_id: UUID, relief: dict[str, Any]) -> None:
    """Write what every further attempt does to fit."""
    session.execute(update(TuningJob).where(TuningJob.job_id == job_id).values(relief=relief))


def metrics(session: Session, tenant_id: UUID, job_id: UUID) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every step's figures, in their order: (step, values)."""
    query = select(JobMetric.step, JobMetric.values).where(JobMetric.tenant_id == tenant_id, JobMetric.job_id == job_id)
    for row in session.execute(query.order_by(JobMetric.step).execution_options(yield_per=PAGE)):
        yield row.step, row.values


def checkpoints(session: Session, job_id: UUID) -> Sequence[Checkpoint]:
    """A job's checkpoints, newest first."""
    query = select(Checkpoint).where(Checkpoint.job_id == job_id)
    return session.scalars(query.order_by(Checkpoint.step.desc(), Checkpoint.id.desc())).all()


def drop(session: Session, ids: Collection[UUID]) -> None:
    """Delete rows of checkpoints."""
    session.execute(delete(Checkpoint).where(Checkpoint.id.in_(ids)))
