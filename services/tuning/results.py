"""What a tuning or a merge has made."""

from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs.kinds import Result
from services.tuning import repository
from shared.db.models import Job


def made(session: Session, tenant_id: UUID, job_id: UUID) -> UUID | None:
    """The version that a job has registered; None of one that has not."""
    found = repository.job(session, tenant_id, job_id)
    return found.result_model_id if found else None


def result(session: Session, job: Job) -> Result | None:
    """What a tuning or a merge has come to."""
    row = repository.job(session, job.tenant_id, job.id)
    if row is None:
        return None
    return Result(
        job_id=row.job_id,
        model_id=row.result_model_id,
        artifact_id=row.artifact_id,
        file_id=row.result_file_id,
        figures=row.figures,
    )
