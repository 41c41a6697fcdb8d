"""Files, the parts that large ones come in, and content that nobody names any more."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.models.base import Base, Born


class File(Born, Base):
    """An upload, named by its owner, in front of a content-addressed blob."""

    __tablename__ = "files"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="processed")
    expires_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_files_list", "tenant_id", text("id DESC")),
        Index("ix_files_content", "tenant_id", "sha256"),
        Index("ix_files_expiry", "expires_at", postgresql_where=text("deleted_at IS NULL")),
    )


class Upload(Born, Base):
    """A file that comes in parts. `pending → completed | cancelled | expired`."""

    __tablename__ = "uploads"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    mime_type: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(server_default="pending")
    expires_at: Mapped[datetime]
    file_expires_s: Mapped[int | None]  #: of the file that it becomes
    file_id: Mapped[UUID | None] = mapped_column(ForeignKey("files.id"))
    completing_until: Mapped[datetime | None]  #: a gateway that puts the parts together renews it; in the past: nobody

    __table_args__ = (
        CheckConstraint("status IN ('pending','completed','cancelled','expired')", name="status"),
        CheckConstraint("(status = 'completed') = (file_id IS NOT NULL)", name="file"),
        Index("ix_uploads_expiry", "expires_at", postgresql_where=text("status = 'pending'")),
    )


class UploadPart(Born, Base):
    """A part: a blob of its own until the upload ends. Its row outlives a completion, to know a repeated one."""

    __tablename__ = "upload_parts"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    upload_id: Mapped[UUID] = mapped_column(ForeignKey("uploads.id"))
    tenant_id: Mapped[UUID]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    position: Mapped[int | None]  #: its place in the file that the upload has become

    __table_args__ = (
        Index("ix_upload_parts_upload", "upload_id"),
        Index("ix_upload_parts_content", "tenant_id", "sha256"),
    )


class Garbage(Base):
    """Content that lost a name, or may never have got one: removed after a while, if nothing names it.

    Whoever stores content writes its row anew first, which waits for a removal in progress.
    """

    __tablename__ = "garbage"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (Index("ix_garbage_since", "since"),)
