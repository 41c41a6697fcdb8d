"""Columns of the `document_set` kind, owned by `services.documents`."""

from uuid import UUID

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.models.base import Base


class DocumentSetFile(Base):
    """One file of a document set, at its place in the request: the `line_no` of its item."""

    __tablename__ = "document_set_files"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    file_id: Mapped[UUID] = mapped_column(ForeignKey("files.id"))

    __table_args__ = (Index("ix_document_set_files_file", "file_id"),)
