"""Columns of the `batch` kind, owned by `services.batches`."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.models.base import Base


class BatchJob(Base):
    """A batch: OpenAI's view of a parent job. Its children's models are in `inference_jobs`.

    While it runs its counts are the sums of its children's; when it has ended they are these, and they add up.
    """

    __tablename__ = "batch_jobs"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    input_file_id: Mapped[UUID] = mapped_column(ForeignKey("files.id"))
    endpoint: Mapped[str]
    completion_window: Mapped[str]
    output_expires_s: Mapped[int | None]
    model: Mapped[str | None]  #: as the lines call it; null while nobody has read them, or when they name several
    errors: Mapped[list[Any] | None]  #: of a file that cannot be used: code, line, message, param
    finalizing_at: Mapped[datetime | None]  #: every line has its result; the files are being written
    ended_at: Mapped[datetime | None]
    total: Mapped[int] = mapped_column(server_default="0")
    completed: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    cached_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    output_file_id: Mapped[UUID | None] = mapped_column(ForeignKey("files.id"))
    error_file_id: Mapped[UUID | None] = mapped_column(ForeignKey("files.id"))

    __table_args__ = (
        CheckConstraint(
            "completed >= 0 AND failed >= 0 AND completed + failed <= total"
            " AND (ended_at IS NULL OR completed + failed = total)",
            name="counts",
        ),
        Index("ix_batch_jobs_input", "input_file_id"),
    )
