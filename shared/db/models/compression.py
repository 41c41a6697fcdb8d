"""Columns and rows of calibrations, quantizations and evaluations, owned by `services.compression`."""

from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.models.base import Base, Born


class CompressionJob(Base):
    """What a job of one of the three kinds works on, fixed at submit, and what came of it, written with its end."""

    __tablename__ = "compression_jobs"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    tenant_id: Mapped[UUID]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    baseline_id: Mapped[UUID | None] = mapped_column(ForeignKey("models.id"))
    calibration_id: Mapped[UUID | None]  #: used by a quantization; made or found by a calibration
    result_model_id: Mapped[UUID | None] = mapped_column(ForeignKey("models.id"))
    artifact_id: Mapped[UUID | None] = mapped_column(ForeignKey("artifacts.id"))
    evaluation_id: Mapped[UUID | None]

    __table_args__ = (
        Index("ix_compression_jobs_model", "model_id"),
        Index("ix_compression_jobs_baseline", "baseline_id", postgresql_where=text("baseline_id IS NOT NULL")),
    )


class CompressionFile(Base):
    """A file that a job of one of the three kinds reads."""

    __tablename__ = "compression_files"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    file_id: Mapped[UUID] = mapped_column(ForeignKey("files.id"), primary_key=True)
    tenant_id: Mapped[UUID]

    __table_args__ = (Index("ix_compression_files_file", "file_id"),)


class Calibration(Born, Base):
    """A calibration artifact, found again by what it was made of.

    `key` is the sha256 of the model's digest, the data's, the schemes and the sampling.
    """

    __tablename__ = "calibrations"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    model_digest: Mapped[str]
    key: Mapped[str]
    artifact_id: Mapped[UUID] = mapped_column(ForeignKey("artifacts.id"))
    report_id: Mapped[UUID | None] = mapped_column(ForeignKey("artifacts.id"))
    spec: Mapped[dict[str, Any]]  #: of the job: data, sampling, schemes
    facts: Mapped[dict[str, Any]]  #: `shared.contracts.forge_orders.SampleFacts`
    recommendation: Mapped[dict[str, Any]]

    __table_args__ = (
        UniqueConstraint("tenant_id", "key"),
        Index("ix_calibrations_list", "tenant_id", text("id DESC")),
        Index("ix_calibrations_model", "model_id"),
    )


class Evaluation(Born, Base):
    """What was found of a model version, alone or beside another; `model_id` is null if it was not registered."""

    __tablename__ = "evaluations"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    model_id: Mapped[UUID | None] = mapped_column(ForeignKey("models.id"))
    baseline_id: Mapped[UUID | None] = mapped_column(ForeignKey("models.id"))
    figures: Mapped[dict[str, Any]]  #: `shared.contracts.evaluation.EvaluationFigures`
    gate: Mapped[dict[str, Any] | None]
    passed: Mapped[bool | None]
    failures: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    report_id: Mapped[UUID | None] = mapped_column(ForeignKey("artifacts.id"))

    __table_args__ = (
        UniqueConstraint("job_id"),
        Index("ix_evaluations_list", "tenant_id", text("id DESC")),
        Index("ix_evaluations_model", "model_id"),
        Index("ix_evaluations_baseline", "baseline_id", postgresql_where=text("baseline_id IS NOT NULL")),
    )
