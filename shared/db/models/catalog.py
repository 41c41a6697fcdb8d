"""Models: names in front of manifests."""

from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.models.base import Base, Born


class Model(Born, Base):
    """A model version: `manifest` lists its files (path, sha256, bytes), `digest` is the manifest's own sha256."""

    __tablename__ = "models"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    version: Mapped[int] = mapped_column(server_default="1")
    digest: Mapped[str]
    manifest: Mapped[list[Any]]
    config: Mapped[dict[str, Any]]
    bytes: Mapped[int] = mapped_column(BigInteger)
    parameters: Mapped[int] = mapped_column(BigInteger)
    dtype: Mapped[str]
    context_length: Mapped[int]
    source: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))

    __table_args__ = (UniqueConstraint("tenant_id", "name", "version"),)
