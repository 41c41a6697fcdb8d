"""The job and its children.

`services.jobs.lifecycle` is the only writer of `Job.state`; triggers hold the table of moves.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    SmallInteger,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.models.base import Base, Born

_STATES = "'queued','running','succeeded','failed','cancelled','expired'"
_TERMINAL = "state IN ('succeeded','failed','cancelled','expired')"
#: what a claim may take, time and cancel flag aside; the partial index of the claim has exactly this predicate
CLAIMABLE = "state = 'queued' AND NOT blocked AND held_at IS NULL AND driver = 'worker'"

#: of a document's result (`shared.contracts.documents`): kept beside it, because a set is counted at every look at it
_PAGES = "CASE WHEN jsonb_typeof(output -> 'pages') = 'number' THEN (output ->> 'pages')::integer END"
_FLAGGED = (
    'jsonb_path_exists(output, \'$."flags"[*]\'::jsonpath) OR jsonb_path_exists(output, \'$."values"[*]?'
    '(exists (@."flags"[*]) || @."check" starts with "violates:")\'::jsonpath)'
)


class Job(Born, Base):
    """One unit of work, and the queue's own entry. The row is the job; messages are bells."""

    __tablename__ = "jobs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str]
    spec: Mapped[dict[str, Any]]
    request_sha256: Mapped[bytes | None]
    meta: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))

    gpu_class: Mapped[str]
    queue: Mapped[str]
    tier: Mapped[int] = mapped_column(SmallInteger)
    priority: Mapped[int] = mapped_column(SmallInteger)
    devices: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    plan: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    planned_gpu_s: Mapped[float] = mapped_column(server_default="1")
    driver: Mapped[str] = mapped_column(server_default="worker")

    state: Mapped[str] = mapped_column(server_default="queued")
    attempt: Mapped[int] = mapped_column(server_default="0")
    failure_count: Mapped[int] = mapped_column(server_default="0")
    lost_count: Mapped[int] = mapped_column(server_default="0")
    max_failures: Mapped[int] = mapped_column(server_default="3")
    max_lost: Mapped[int] = mapped_column(server_default="3")
    max_runtime_s: Mapped[float | None]
    run_after: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    deadline_at: Mapped[datetime | None]
    blocked: Mapped[bool] = mapped_column(server_default=text("false"))
    held_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_reason: Mapped[str | None]

    lease_owner: Mapped[UUID | None]
    lease_id: Mapped[UUID | None]
    lease_expires_at: Mapped[datetime | None]

    after_job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    root_id: Mapped[UUID | None]
    retry_of: Mapped[UUID | None]

    progress_done: Mapped[int] = mapped_column(BigInteger, server_default="0")
    progress_total: Mapped[int | None] = mapped_column(BigInteger)
    progress_unit: Mapped[str] = mapped_column(server_default="lines")
    progress_failed: Mapped[int] = mapped_column(BigInteger, server_default="0")
    progress_mark: Mapped[int] = mapped_column(BigInteger, server_default="0")
    checkpoint_id: Mapped[UUID | None]
    error: Mapped[dict[str, Any] | None]
    webhook: Mapped[dict[str, Any] | None]
    webhook_secret: Mapped[bytes | None]

    prompt_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    completion_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    gpu_seconds: Mapped[float] = mapped_column(server_default="0")
    cost: Mapped[float] = mapped_column(server_default="0")

    event_seq: Mapped[int] = mapped_column(server_default="1")
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint("driver IN ('worker','gateway','children')", name="driver"),
        CheckConstraint("tier BETWEEN 0 AND 2", name="tier"),
        CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
        CheckConstraint("attempt >= 0 AND failure_count >= 0 AND lost_count >= 0", name="counters"),
        CheckConstraint("progress_failed BETWEEN 0 AND progress_done", name="progress"),
        CheckConstraint(
            "((state = 'running' AND driver <> 'children')"
            " = (lease_owner IS NOT NULL AND lease_id IS NOT NULL AND lease_expires_at IS NOT NULL))"
            " AND (state = 'running' OR lease_owner IS NULL)",
            name="lease",
        ),
        CheckConstraint(f"({_TERMINAL}) = (finished_at IS NOT NULL)", name="finished"),
        Index(
            "ix_jobs_claim",
            "queue",
            "tier",
            "tenant_id",
            text("priority DESC"),
            "deadline_at",
            "id",
            postgresql_where=text(CLAIMABLE),
        ),
        Index("ix_jobs_running", "lease_owner", postgresql_where=text("state = 'running'")),
        Index(
            "ix_jobs_deadline",
            "deadline_at",
            postgresql_where=text("deadline_at IS NOT NULL AND state IN ('queued','running')"),
        ),
        Index("ix_jobs_list", "tenant_id", text("id DESC")),
        Index("ix_jobs_list_state", "tenant_id", "state", text("id DESC")),
        Index("ix_jobs_after", "after_job_id", postgresql_where=text("after_job_id IS NOT NULL")),
        Index("ix_jobs_parent", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
        {"postgresql_with": {"fillfactor": "70"}},
    )


class Attempt(Base):
    """One claim of a job by one worker, from claim to outcome."""

    __tablename__ = "attempts"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    worker_id: Mapped[UUID]
    claimed_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    error: Mapped[dict[str, Any] | None]


class UsageRow(Born, Base):
    """What one attempt consumed; written in the transaction that ends it, so it is counted once."""

    __tablename__ = "usage"

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    gpu_class: Mapped[str]
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    gpu_seconds: Mapped[float]
    cost: Mapped[float]

    __table_args__ = (
        ForeignKeyConstraint(["job_id", "attempt"], ["attempts.job_id", "attempts.attempt"]),
        Index("ix_usage_tenant", "tenant_id", "created_at"),
    )


class JobEvent(Born, Base):
    """Append-only, numbered from 1 in each job; feeds SSE and webhooks."""

    __tablename__ = "job_events"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    type: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))


class JobLog(Born, Base):
    """Lines that an attempt wrote for its owner to read."""

    __tablename__ = "job_logs"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    tenant_id: Mapped[UUID]
    attempt: Mapped[int]
    level: Mapped[str]
    message: Mapped[str]

    __table_args__ = (Index("ix_job_logs_job", "job_id", "id"),)


class JobItem(Base):
    """One line of an inference job, batch or document set. Recorded once: `pending` → `done` or `error`.

    `line_no` is its place in the caller's input, unique in the whole family of a parent; `turn` is its place in the
    order in which its own job runs its lines.
    """

    __tablename__ = "job_items"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    line_no: Mapped[int] = mapped_column(primary_key=True)
    turn: Mapped[int]
    tenant_id: Mapped[UUID]
    custom_id: Mapped[str | None]
    input_sha256: Mapped[bytes | None]
    input: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(server_default="pending")
    output: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    attempt: Mapped[int | None]
    pages: Mapped[int | None] = mapped_column(Computed(_PAGES, persisted=True))
    flagged: Mapped[bool | None] = mapped_column(Computed(_FLAGGED, persisted=True))

    __table_args__ = (
        CheckConstraint("status IN ('pending','done','error')", name="status"),
        CheckConstraint("(status = 'pending') = (attempt IS NULL)", name="recorded"),
        CheckConstraint("(status = 'done') = (output IS NOT NULL)", name="output"),
        CheckConstraint("(status = 'error') = (error IS NOT NULL)", name="error"),
        Index("ix_job_items_pending", "job_id", "turn", postgresql_where=text("status = 'pending'")),
        Index(
            "uq_job_items_custom_id",
            "job_id",
            "custom_id",
            unique=True,
            postgresql_where=text("custom_id IS NOT NULL"),
        ),
    )


class IdempotencyKey(Born, Base):
    """The answer to a keyed request, replayed for 24 h; written in the transaction that did the work."""

    __tablename__ = "idempotency_keys"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[bytes]
    status: Mapped[int | None] = mapped_column(SmallInteger)
    body: Mapped[bytes | None]

    __table_args__ = (Index("ix_idempotency_keys_created", "created_at"),)
