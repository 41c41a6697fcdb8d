"""What is listed below a job: events, log lines, metrics, attempts, checkpoints; and its result."""

from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field

from gateway.schemas.common import Moment, Out
from gateway.schemas.jobs import JobErrorOut
from services.files.service import PREFIX as FILE
from services.jobs.kinds import Result
from services.jobs.views import CheckpointView
from shared.contracts.jobs import EventType
from shared.db.models import Attempt, JobEvent, JobLog, JobMetric
from shared.ids import prefixed


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


class MetricOut(Out):
    """Figures of one step of a run."""

    id: int = Field(description="the step; `after` takes it")
    object: Literal["job.metric"] = "job.metric"
    attempt: int
    values: dict[str, float] = Field(
        description="of a tuning: loss, learning_rate, grad_norm, tokens_per_second, tokens, token_accuracy, epoch, "
        "memory_bytes, mfu; where it was looked at: validation_loss, validation_token_accuracy"
    )
    created_at: Moment

    @classmethod
    def of(cls, row: JobMetric) -> Self:
        """The figures of a row."""
        return cls(id=row.step, attempt=row.attempt, values=row.values, created_at=row.created_at)


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
    metrics: dict[str, float] = Field(description="the newest figures of its step")
    best: bool = Field(description="no earlier one was better")
    model: str | None = Field(description="what it answers as in calls; null where it does not")
    created_at: Moment

    @classmethod
    def of(cls, shown: CheckpointView) -> Self:
        """The checkpoint of a row."""
        row = shown.row
        return cls(
            id=row.id,
            attempt=row.attempt,
            step=row.step,
            fingerprint=row.fingerprint,
            bytes=sum(entry["bytes"] for entry in row.manifest),
            corrupt=row.corrupt,
            metrics=row.metrics,
            best=row.best,
            model=shown.model,
            created_at=row.created_at,
        )


class ResultOut(Out):
    """What a job came to: ids, null where it made none."""

    job: str
    model: str | None = Field(
        description="id of the version that was made; of a calibration or an evaluation, of the one looked at"
    )
    artifact: str | None
    evaluation: str | None
    calibration: str | None
    file: str | None = Field(description="of a tuning: its metrics, step by step, as CSV")
    figures: dict[str, Any] | None = Field(description="of a tuning: steps, tokens, losses, speed, setting, data")

    @classmethod
    def of(cls, result: Result) -> Self:
        """The resource of a result."""
        return cls(
            job=str(result.job_id),
            model=_text(result.model_id),
            artifact=_text(result.artifact_id),
            evaluation=_text(result.evaluation_id),
            calibration=_text(result.calibration_id),
            file=None if result.file_id is None else prefixed(FILE, result.file_id),
            figures=result.figures,
        )


def _text(id: UUID | None) -> str | None:
    return None if id is None else str(id)
