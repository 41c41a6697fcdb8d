"""What a calibration, a quantization or an evaluation has come to."""

from sqlalchemy.orm import Session

from services.compression import repository
from services.jobs.kinds import Result
from shared.db.models import CompressionJob, Job


def made(session: Session, job: Job) -> Result | None:
    """Of a quantization: with the version that it has registered."""
    row = repository.job(session, job.tenant_id, job.id)
    return None if row is None else _result(row, model=False)


def judged(session: Session, job: Job) -> Result | None:
    """Of a calibration or an evaluation: with the model that was looked at."""
    row = repository.job(session, job.tenant_id, job.id)
    return None if row is None else _result(row, model=True)


def _result(row: CompressionJob, *, model: bool) -> Result:
    return Result(
        job_id=row.job_id,
        model_id=row.model_id if model else row.result_model_id,
        artifact_id=row.artifact_id,
        evaluation_id=row.evaluation_id,
        calibration_id=row.calibration_id,
    )
