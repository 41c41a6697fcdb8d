"""Columns and rows of tunings and merges, in SQL."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.db.models import File, Tenant, TuningFile, TuningJob


def insert(session: Session, job: TuningJob, file_ids: Iterable[UUID]) -> None:
    """Write the columns of a new job, and the files that it reads."""
    session.add(job)
    session.add_all(TuningFile(job_id=job.job_id, file_id=each, tenant_id=job.tenant_id) for each in set(file_ids))
    session.flush()


def job(session: Session, tenant_id: UUID, job_id: UUID) -> TuningJob | None:
    """The columns of a tenant's job; None of one of another kind."""
    query = select(TuningJob).where(TuningJob.tenant_id == tenant_id, TuningJob.job_id == job_id)
    return session.scalar(query.execution_options(populate_existing=True))


def files(session: Session, tenant_id: UUID, job_id: UUID) -> Sequence[File]:
    """The files that a job reads, deleted or not: whoever was accepted may read them."""
    query = select(File).join(TuningFile, TuningFile.file_id == File.id)
    mine = query.where(TuningFile.job_id == job_id, TuningFile.tenant_id == tenant_id)
    return session.scalars(mine.order_by(File.id)).all()


def tenant_name(session: Session, tenant_id: UUID) -> str:
    """What a tenant is called."""
    return session.execute(select(Tenant.name).where(Tenant.id == tenant_id)).scalar_one()
