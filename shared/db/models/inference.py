"""Columns of the `inference` kind, owned by `services.inference`."""

from uuid import UUID

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.models.base import Base


class InferenceJob(Base):
    """The model that answers, fixed at submit, so that every attempt runs the same weights."""

    __tablename__ = "inference_jobs"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    tenant_id: Mapped[UUID]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    model_digest: Mapped[str]
    input_file_id: Mapped[UUID | None] = mapped_column(ForeignKey("files.id"))

    __table_args__ = (
        Index("ix_inference_jobs_input", "input_file_id", postgresql_where=text("input_file_id IS NOT NULL")),
    )
