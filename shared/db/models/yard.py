"""Workers, their engines, and the shares that tenants have of each queue."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, ForeignKey, Index, SmallInteger, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.models.base import Base, Born


class Worker(Base):
    """One boot of one worker process: a restarted worker is a new row."""

    __tablename__ = "workers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    gpu_class: Mapped[str]
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text))
    devices: Mapped[list[Any]]
    versions: Mapped[dict[str, Any]]
    gpu_model: Mapped[str | None]
    gpu_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    slots: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    draining: Mapped[bool] = mapped_column(server_default=text("false"))
    started_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    last_bell_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_workers_live", "last_seen_at", postgresql_where=text("stopped_at IS NULL")),)


class Engine(Born, Base):
    """A loaded model: where it listens and how it is."""

    __tablename__ = "engines"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    worker_id: Mapped[UUID] = mapped_column(ForeignKey("workers.id"), index=True)
    model_digest: Mapped[str]
    kind: Mapped[str]
    address: Mapped[str]
    devices: Mapped[list[Any]]
    tensor_parallel: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    modes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{generate}'"))
    adapters: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    token: Mapped[str | None]
    stats: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    state: Mapped[str]
    max_in_flight: Mapped[int]
    in_flight: Mapped[int] = mapped_column(server_default="0")
    pid: Mapped[int]
    ready_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]


class EngineMeasure(Base):
    """What an engine of a model took the last time: seconds to load, bytes of a device's memory."""

    __tablename__ = "engine_measures"

    model_digest: Mapped[str] = mapped_column(primary_key=True)
    gpu_class: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    tensor_parallel: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    load_s: Mapped[float]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    measured_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Demand(Base):
    """A model that callers wait for and no ready engine serves: kept fresh by the gateways that hold them.

    `claimed_by` is the worker that starts an engine for it; `error` is why the last one could not.
    """

    __tablename__ = "demands"

    queue: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"), primary_key=True)
    mode: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    devices: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    ahead: Mapped[bool] = mapped_column(server_default=text("false"))  #: nobody waits yet: it drives no engine away
    wanted_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    claimed_by: Mapped[UUID | None]
    claimed_until: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]
    failed_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_demands_wanted", "queue", "wanted_at"),)


class FairShare(Base):
    """A tenant's virtual time in (queue, tier): planned GPU-seconds served, divided by its weight.

    Start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996.
    """

    __tablename__ = "fair_shares"

    queue: Mapped[str] = mapped_column(primary_key=True)
    tier: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    virtual_time: Mapped[float] = mapped_column(server_default="0")
    served_start: Mapped[float] = mapped_column(server_default="0")

    __table_args__ = (Index("ix_fair_shares_served", "queue", "tier", "served_start"),)
