"""Columns of the kinds `tuning` and `merge`, owned by `services.tuning`."""

from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.models.base import Base


class TuningJob(Base):
    """What a job trains or merges, fixed when it is planned, and what came of it, written with its end."""

    __tablename__ = "tuning_jobs"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    tenant_id: Mapped[UUID]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))  #: the base of a tuning, the adapter of a merge
    name: Mapped[str]  #: that the result will have
    relief: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  #: `shared.contracts.tuning.Relief`
    figures: Mapped[dict[str, Any] | None]  #: `shared.contracts.tuning.TuningFigures`
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    result_model_id: Mapped[UUID | None] = mapped_column(ForeignKey("models.id"))
    artifact_id: Mapped[UUID | None] = mapped_column(ForeignKey("artifacts.id"))
    result_file_id: Mapped[UUID | None] = mapped_column(ForeignKey("files.id"))  #: metrics as CSV

    __table_args__ = (Index("ix_tuning_jobs_model", "model_id"),)


class TuningFile(Base):
    """A file that a job of tuning reads."""

    __tablename__ = "tuning_files"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    file_id: Mapped[UUID] = mapped_column(ForeignKey("files.id"), primary_key=True)
    tenant_id: Mapped[UUID]

    __table_args__ = (Index("ix_tuning_files_file", "file_id"),)
