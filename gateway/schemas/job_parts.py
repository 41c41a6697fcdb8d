"""What is listed below a job: events, log lines, attempts, checkpoints."""

from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field

from gateway.schemas.common import Moment, Out
from gateway.schemas.jobs import JobErrorOut
from shared.contracts.jobs import EventType
from shared.db.models import Attempt, Checkpoint, JobEvent, JobLog


class EventOut(Out):
    """One numbered event of a job."""

    id: int = Field(description="1, 2, 3 … in each job; `after` and Last-Event-ID take it")
    object: Literal["job.event"] = "job.event"
    job_id: UUID
    type: EventType
    data: dict[str, Any]
    created_at: Moment

    @classmethod
    def of(cls, row: JobEvent) -> Self:
        """The event of a row."""
        return cls(id=row.seq, job_id=row.job_id, type=EventType(row.type), data=row.data, created_at=row.created_at)


class LogOut(Out):
    """One line that an attempt wrote."""

    id: int
    object: Literal["job.log"] = "job.log"
    attempt: int
    level: str
    message: str
    created_at: Moment

    @classmethod
    def of(cls, row: JobLog) -> Self:
        """The line of a row."""
        return cls(
            id=row.id,
            attempt=row.attempt,
            level=row.level,
            message=row.message,
            created_at=row.created_at,
        )


class AttemptOut(Out):
    """One claim of a job by one worker."""

    id: str
    object: Literal["job.attempt"] = "job.attempt"
    attempt: int
    worker_id: UUID
    claimed_at: Moment
    ended_at: Moment | None
    outcome: str | None
    error: JobErrorOut | None

    @classmethod
    def of(cls, row: Attempt) -> Self:
        """The attempt of a row."""
        return cls(
            id=str(row.attempt),
            attempt=row.attempt,
            worker_id=row.worker_id,
            claimed_at=row.claimed_at,
            ended_at=row.ended_at,
            outcome=row.outcome,
            error=None if row.error is None else JobErrorOut.of(row.error),
        )


class CheckpointOut(Out):
    """A point from which a later attempt may go on."""

    id: UUID
    object: Literal["job.checkpoint"] = "job.checkpoint"
    attempt: int
    step: int
    fingerprint: str
    bytes: int
    corrupt: bool
    created_at: Moment

    @classmethod
    def of(cls, row: Checkpoint) -> Self:
        """The checkpoint of a row."""
        return cls(
            id=row.id,
            attempt=row.attempt,
            step=row.step,
            fingerprint=row.fingerprint,
            bytes=sum(entry["bytes"] for entry in row.manifest),
            corrupt=row.corrupt,
            created_at=row.created_at,
        )
