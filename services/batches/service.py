"""Batches: OpenAI's object over a parent job. Nothing here commits."""

from uuid import UUID

from sqlalchemy.orm import Session

from services.files import service as files
from services.jobs.kinds import Prepared
from shared.contracts.batches import WINDOWS, BatchSpec
from shared.db.models import BatchJob
from shared.errors import NotFound, Unprocessable


def prepare(session: Session, tenant_id: UUID, spec: BatchSpec) -> Prepared:
    """Find the file. Its lines, and with them the models and what they need, are read by the courier.

    Raises:
        Unprocessable: `spec.input_file_id` names no file of the tenant.
    """
    try:
        file = files.get(session, tenant_id, spec.input_file_id, param="spec.input_file_id")
    except NotFound as error:
        raise Unprocessable(f"there is no file {spec.input_file_id!r}", param="spec.input_file_id") from error

    def extend(session: Session, job_id: UUID) -> None:
        session.add(
            BatchJob(
                job_id=job_id,
                tenant_id=tenant_id,
                input_file_id=file.id,
                endpoint=spec.endpoint,
                completion_window=spec.completion_window,
                output_expires_s=spec.output_expires_s,
            )
        )

    return Prepared(
        spec=spec.model_dump(mode="json"),
        needs=None,
        planned_gpu_s=0.0,
        expand=True,
        extend=extend,
        deadline_s=WINDOWS[spec.completion_window],
    )
