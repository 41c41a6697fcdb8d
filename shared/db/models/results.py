"""What attempts of a job leave: points to go on from, figures, results."""

from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.models.base import Base, Born

_PATHS = {"manifest": "jsonb_path_ops"}  #: by content: `manifest @> [{"sha256": …}]`


class Checkpoint(Born, Base):
    """A point from which a later attempt may go on. The blobs are there before the row is."""

    __tablename__ = "checkpoints"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    tenant_id: Mapped[UUID]
    attempt: Mapped[int]
    step: Mapped[int] = mapped_column(BigInteger)
    fingerprint: Mapped[str]
    manifest: Mapped[list[Any]]
    corrupt: Mapped[bool] = mapped_column(server_default=text("false"))
    metrics: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    best: Mapped[bool] = mapped_column(server_default=text("false"))  #: no earlier one was better
    model_id: Mapped[UUID | None] = mapped_column(ForeignKey("models.id"))  #: the version that it answers as

    __table_args__ = (
        Index("uq_checkpoints_step", "job_id", "attempt", "step", unique=True),
        Index("ix_checkpoints_manifest", "manifest", postgresql_using="gin", postgresql_ops=_PATHS),
        Index("ix_checkpoints_model", "model_id", postgresql_where=text("model_id IS NOT NULL")),
    )


class JobMetric(Born, Base):
    """Figures of one step of a run. A step that an attempt does again is written over."""

    __tablename__ = "job_metrics"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    tenant_id: Mapped[UUID]
    attempt: Mapped[int]
    values: Mapped[dict[str, Any]]


class Artifact(Born, Base):
    """A result: a name in front of a content-addressed blob, or of a manifest of several."""

    __tablename__ = "artifacts"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    tenant_id: Mapped[UUID]
    attempt: Mapped[int]
    position: Mapped[int] = mapped_column(SmallInteger)
    name: Mapped[str]
    media_type: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    manifest: Mapped[list[Any] | None]

    __table_args__ = (
        Index("uq_artifacts_name", "job_id", "name", unique=True),
        Index("ix_artifacts_content", "tenant_id", "sha256"),
        Index("ix_artifacts_manifest", "manifest", postgresql_using="gin", postgresql_ops=_PATHS),
    )
