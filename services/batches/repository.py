"""The batch kind's columns and lines, in SQL."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Uuid

from shared.db.models import BatchJob

_PARTS = bindparam("parts", type_=ARRAY(Uuid))

_INPUT = text("""
SELECT f.id, f.sha256, f.bytes, f.created_at FROM batch_jobs b
JOIN files f ON f.id = b.input_file_id AND f.tenant_id = b.tenant_id
WHERE b.job_id = :job_id AND b.tenant_id = :tenant_id
""")

_PARTS_OF = text("SELECT id FROM jobs WHERE tenant_id = :tenant_id AND parent_id = :job_id ORDER BY id")

_READ = text("UPDATE batch_jobs SET total = :total, model = :model WHERE job_id = :job_id")
_REFUSED = text(
    "UPDATE batch_jobs SET errors = CAST(:errors AS jsonb), ended_at = clock_timestamp() WHERE job_id = :id"
)
_FINALIZING = text("""
UPDATE batch_jobs SET finalizing_at = clock_timestamp() WHERE job_id = :job_id AND finalizing_at IS NULL
""")
_ENDED = text("""
UPDATE batch_jobs SET completed = :completed, failed = :failed, cached_tokens = :cached_tokens,
  output_file_id = :output_file_id, error_file_id = :error_file_id, ended_at = clock_timestamp()
WHERE job_id = :job_id
""")

# As stored, which for a text that repeats itself is a fraction of its length.
_SIZES = text("""
SELECT line_no, COALESCE(pg_column_size(output), 0) + COALESCE(pg_column_size(error), 0) AS size
FROM job_items WHERE job_id = ANY(:parts) AND line_no BETWEEN :first AND :last ORDER BY line_no
""").bindparams(_PARTS)

_LINES = text("""
SELECT i.line_no, i.custom_id, i.status, i.output, i.error, j.state, j.error AS job_error
FROM job_items i JOIN jobs j ON j.id = i.job_id
WHERE i.job_id = ANY(:parts) AND i.line_no BETWEEN :first AND :last ORDER BY i.line_no
""").bindparams(_PARTS)

_UNDONE_SIZES = text("""
SELECT line_no, pg_column_size(input) AS size
FROM job_items
WHERE job_id = ANY(:parts) AND line_no BETWEEN :first AND :last AND status <> 'done' ORDER BY line_no
""").bindparams(_PARTS)

_UNDONE = text("""
SELECT custom_id, input FROM job_items
WHERE job_id = ANY(:parts) AND line_no BETWEEN :first AND :last AND status <> 'done' ORDER BY line_no
""").bindparams(_PARTS)


def of_jobs(session: Session, tenant_id: UUID, job_ids: Sequence[UUID]) -> dict[UUID, BatchJob]:
    """The columns of a tenant's batches, by job."""
    query = select(BatchJob).where(BatchJob.tenant_id == tenant_id, BatchJob.job_id.in_(job_ids))
    rows = session.scalars(query.execution_options(populate_existing=True))
    return {row.job_id: row for row in rows}


def input_of(session: Session, tenant_id: UUID, job_id: UUID) -> Row[Any]:
    """The batch's input file (id, sha256, bytes, created_at), deleted or not: whoever was accepted may read it."""
    return session.execute(_INPUT, {"tenant_id": tenant_id, "job_id": job_id}).one()


def parts(session: Session, tenant_id: UUID, job_id: UUID) -> list[UUID]:
    """The child jobs that hold the batch's lines."""
    return list(session.execute(_PARTS_OF, {"tenant_id": tenant_id, "job_id": job_id}).scalars())


def read(session: Session, job_id: UUID, *, total: int, model: str | None) -> None:
    """Note what the file holds."""
    session.execute(_READ, {"job_id": job_id, "total": total, "model": model})


def refused(session: Session, job_id: UUID, problems: Sequence[dict[str, Any]]) -> None:
    """Note why the file cannot be used."""
    session.execute(_REFUSED, {"id": job_id, "errors": orjson.dumps(problems).decode()})


def finalizing(session: Session, job_id: UUID) -> None:
    """Note since when the output is being written."""
    session.execute(_FINALIZING, {"job_id": job_id})


def ended(
    session: Session,
    job_id: UUID,
    *,
    completed: int,
    failed: int,
    cached_tokens: int,
    output_file_id: UUID | None,
    error_file_id: UUID | None,
) -> None:
    """Note what became of the lines. A constraint refuses counts that do not add up to the total."""
    values = {
        "job_id": job_id,
        "completed": completed,
        "failed": failed,
        "cached_tokens": cached_tokens,
        "output_file_id": output_file_id,
        "error_file_id": error_file_id,
    }
    session.execute(_ENDED, values)


def sizes(session: Session, parts: Sequence[UUID], *, first: int, last: int) -> Sequence[Row[Any]]:
    """Lines from `first` to `last`, in order (line_no, size): about how many bytes their results hold."""
    return session.execute(_SIZES, {"parts": list(parts), "first": first, "last": last}).all()


def lines(session: Session, parts: Sequence[UUID], *, first: int, last: int) -> Sequence[Row[Any]]:
    """Lines from `first` to `last`, in order, each with its result and how the job that held it ended."""
    return session.execute(_LINES, {"parts": list(parts), "first": first, "last": last}).all()


def undone_sizes(session: Session, parts: Sequence[UUID], *, first: int, last: int) -> Sequence[Row[Any]]:
    """Those without an answer from `first` to `last`, in order (line_no, size): about how many bytes they hold."""
    return session.execute(_UNDONE_SIZES, {"parts": list(parts), "first": first, "last": last}).all()


def undone(session: Session, parts: Sequence[UUID], *, first: int, last: int) -> Sequence[Row[Any]]:
    """Lines from `first` to `last` that have no answer (custom_id, input), in order."""
    return session.execute(_UNDONE, {"parts": list(parts), "first": first, "last": last}).all()
