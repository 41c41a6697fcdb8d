"""The files of a document set in SQL."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import func, insert, or_, select
from sqlalchemy.orm import Session

from shared.db.models import DocumentSetFile, File


def files(session: Session, tenant_id: UUID, ids: Collection[UUID]) -> dict[UUID, File]:
    """Those of a tenant's files that are neither deleted nor expired, in one statement."""
    query = select(File).where(
        File.tenant_id == tenant_id,
        File.id.in_(ids),
        File.deleted_at.is_(None),
        or_(File.expires_at.is_(None), File.expires_at > func.clock_timestamp()),
    )
    return {file.id: file for file in session.scalars(query)}


def keep(session: Session, job_id: UUID, tenant_id: UUID, files: Sequence[UUID]) -> None:
    """Write which files a set has, in their order."""
    rows = [
        {"job_id": job_id, "position": number, "tenant_id": tenant_id, "file_id": file}
        for number, file in enumerate(files)
    ]
    session.execute(insert(DocumentSetFile), rows)
