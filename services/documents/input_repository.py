"""The files of a document set in SQL."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.orm import Session

from shared.db.models import DocumentSetFile


def keep(session: Session, job_id: UUID, tenant_id: UUID, files: Sequence[UUID]) -> None:
    """Write which files a set has, in their order."""
    rows = [
        {"job_id": job_id, "position": number, "tenant_id": tenant_id, "file_id": file}
        for number, file in enumerate(files)
    ]
    session.execute(insert(DocumentSetFile), rows)
