"""Models: names in front of manifests."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.models.base import Base, Born


class Model(Born, Base):
    """A model version: `manifest` lists its files (path, sha256, bytes), `digest` is the manifest's own sha256.

    An adapter is a model too: `base_id` is the version that it was trained on and is served beside.
    """

    __tablename__ = "models"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    version: Mapped[int] = mapped_column(server_default="1")
    kind: Mapped[str] = mapped_column(server_default="base")
    base_id: Mapped[UUID | None] = mapped_column(ForeignKey("models.id"))
    digest: Mapped[str]
    manifest: Mapped[list[Any]]
    config: Mapped[dict[str, Any]]
    bytes: Mapped[int] = mapped_column(BigInteger)
    parameters: Mapped[int] = mapped_column(BigInteger)
    dtype: Mapped[str]
    context_length: Mapped[int]
    source: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    serving: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("tenant_id", "name", "version"),
        CheckConstraint("kind IN ('base','adapter')", name="kind"),
        CheckConstraint("(kind = 'adapter') = (base_id IS NOT NULL)", name="base"),
        Index("ix_models_base", "base_id", postgresql_where=text("base_id IS NOT NULL")),
    )


class ModelAlias(Born, Base):
    """Another name for one version of a model."""

    __tablename__ = "model_aliases"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"), index=True)
