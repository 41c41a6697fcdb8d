"""The inference kind's columns and lines, in SQL."""

from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from shared.db.models import InferenceJob, Model

_INSERT = text("""
INSERT INTO inference_jobs (job_id, tenant_id, model_id, model_digest, input_file_id)
VALUES (:job_id, :tenant_id, :model_id, :model_digest, :input_file_id)
""")

_COPY = text("""
INSERT INTO inference_jobs (job_id, tenant_id, model_id, model_digest)
SELECT :job_id, tenant_id, model_id, model_digest FROM inference_jobs WHERE job_id = :from_job_id
""")

_INPUT = text("""
SELECT f.sha256, f.bytes FROM inference_jobs i JOIN files f ON f.id = i.input_file_id AND f.tenant_id = i.tenant_id
WHERE i.job_id = :job_id AND i.tenant_id = :tenant_id
""")

# A part is the job itself or one of its children; each holds a range of the lines.
_PARTS = text("""
SELECT i.job_id FROM jobs j CROSS JOIN LATERAL (
  SELECT job_id, line_no FROM job_items WHERE job_id = j.id ORDER BY line_no LIMIT 1) i
WHERE j.tenant_id = :tenant_id AND (j.id = :job_id OR j.parent_id = :job_id) ORDER BY i.line_no
""")

_LINES = text("""
SELECT line_no, output, error FROM job_items WHERE job_id = :job_id AND line_no > :after AND status <> 'pending'
ORDER BY line_no LIMIT :limit
""")

_CHILD_ENDS = text("""
SELECT count(*) AS total,
  count(*) FILTER (WHERE state = 'succeeded') AS succeeded, count(*) FILTER (WHERE state = 'failed') AS failed,
  count(*) FILTER (WHERE state = 'cancelled') AS cancelled, count(*) FILTER (WHERE state = 'expired') AS expired,
  count(*) FILTER (WHERE finished_at IS NULL) AS unfinished,
  (array_agg(error ORDER BY id) FILTER (WHERE state = 'failed'))[1] AS first_error
FROM jobs WHERE tenant_id = :tenant_id AND parent_id = :job_id
""")


def insert(
    session: Session, job_id: UUID, *, tenant_id: UUID, model_id: UUID, model_digest: str, input_file_id: UUID | None
) -> None:
    """Write the columns of a new job."""
    values = {
        "job_id": job_id,
        "tenant_id": tenant_id,
        "model_id": model_id,
        "model_digest": model_digest,
        "input_file_id": input_file_id,
    }
    session.execute(_INSERT, values)


def copy(session: Session, job_id: UUID, *, from_job_id: UUID) -> None:
    """Give a child its parent's model."""
    session.execute(_COPY, {"job_id": job_id, "from_job_id": from_job_id})


def model_of(session: Session, tenant_id: UUID, job_id: UUID) -> Model | None:
    """The model that was fixed at submit, deleted since or not."""
    query = select(Model).join(InferenceJob, InferenceJob.model_id == Model.id)
    return session.scalar(query.where(InferenceJob.job_id == job_id, InferenceJob.tenant_id == tenant_id))


def input_of(session: Session, tenant_id: UUID, job_id: UUID) -> Row[Any] | None:
    """Digest and size of the job's input file, deleted or not: whoever was accepted may read it."""
    return session.execute(_INPUT, {"tenant_id": tenant_id, "job_id": job_id}).one_or_none()


def parts(session: Session, tenant_id: UUID, job_id: UUID) -> list[UUID]:
    """The jobs that hold lines of this one, in the order of their lines."""
    return list(session.execute(_PARTS, {"tenant_id": tenant_id, "job_id": job_id}).scalars())


def lines(session: Session, part: UUID, *, after: int, limit: int) -> list[Row[Any]]:
    """Results of one part's recorded lines (line_no, output, error), in order."""
    return list(session.execute(_LINES, {"job_id": part, "after": after, "limit": limit}).all())


def child_ends(session: Session, tenant_id: UUID, job_id: UUID) -> Row[Any]:
    """How the children of a parent ended: a count for each state, and the first failure's error."""
    return session.execute(_CHILD_ENDS, {"tenant_id": tenant_id, "job_id": job_id}).one()
