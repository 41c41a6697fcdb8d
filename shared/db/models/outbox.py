"""What must happen after a commit: bells to ring, control work to do, webhooks to deliver."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, SmallInteger, func, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.models.base import Base, Born


class Outbox(Base):
    """A bell to ring: the queue's name, nothing else. Deleted once rung."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    queue: Mapped[str]
    available_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (Index("ix_outbox_available", "available_at"),)


class ControlTask(Born, Base):
    """Work of the courier: expand a file into child jobs, merge their lines. Claimed by lease, deleted when done."""

    __tablename__ = "control_tasks"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    kind: Mapped[str]
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    available_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    lease_expires_at: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(server_default="0")
    error: Mapped[dict[str, Any] | None]

    __table_args__ = (
        Index("uq_control_tasks_kind", "job_id", "kind", unique=True),
        Index("ix_control_tasks_available", "available_at"),
    )


class WebhookDelivery(Born, Base):
    """One event for one receiver: the body is frozen here, in the transaction of the event."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), index=True)
    seq: Mapped[int]
    type: Mapped[str]
    url: Mapped[str]
    secret: Mapped[bytes]
    body: Mapped[bytes]
    state: Mapped[str] = mapped_column(server_default="pending")
    tries: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    next_at: Mapped[datetime | None] = mapped_column(server_default=func.clock_timestamp())
    lease_expires_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("state IN ('pending','delivered','dead')", name="state"),
        CheckConstraint("(state = 'pending') = (next_at IS NOT NULL)", name="due"),
        Index("uq_webhook_deliveries_event", "job_id", "seq", "url", unique=True),
        Index("ix_webhook_deliveries_due", "next_at", postgresql_where=text("state = 'pending'")),
    )


class WebhookAttempt(Base):
    """The delivery log: what one try met."""

    __tablename__ = "webhook_attempts"

    delivery_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_deliveries.id"), primary_key=True)
    number: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    tenant_id: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    status: Mapped[int | None]
    duration_ms: Mapped[int]
    error: Mapped[str | None]
    response: Mapped[str | None]
