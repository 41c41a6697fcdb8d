"""The batch resource, as OpenAI spells it; times are Unix seconds. What is ours is said to be."""

from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field, ValidationError

from gateway.schemas.common import Out, unix_seconds
from gateway.schemas.jobs import ProgressOut, WebhookOut
from services.batches.service import KIND, public_id
from services.batches.views import BatchView
from services.files.service import PREFIX as FILE
from services.jobs.service import field_errors
from shared.contracts.batches import EXPIRY_S, BatchStatus, Endpoint, Problem, Window
from shared.contracts.jobs import Contract, JobRequest, Metadata, Name, State, Text, Tier, WebhookTarget
from shared.errors import InvalidField, UnknownParameter
from shared.ids import prefixed


class OutputExpiry(Contract):
    """How long the output and the error file are kept."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=EXPIRY_S[0], le=EXPIRY_S[1], strict=True)


class BatchRequest(Contract):
    """The body of `POST /v1/batches`. The last three fields are ours."""

    input_file_id: Text = Field(description="id of an uploaded JSONL file of purpose batch")
    endpoint: Endpoint = Field(description="where each line could be posted")
    completion_window: Window = Field("24h", description="lines that have not been run by then are expired")
    metadata: Metadata | None = Field(None, description="up to 16 pairs, returned as given")
    output_expires_after: OutputExpiry | None = Field(None, description="of what the batch writes; null: 30 days")
    gpu_class: Name = Field("auto", description="ours: a GPU class, or `auto`: the cheapest that fits")
    priority: int = Field(5, ge=0, le=9, strict=True, description="ours: 9 goes first")
    webhook: WebhookTarget | None = Field(None, description="ours: where the job's events are delivered, signed")

    @classmethod
    def of(cls, body: dict[str, Any]) -> Self:
        """A checked body.

        Raises:
            InvalidField, UnknownParameter: a field is missing, wrong or unknown. As OpenAI answers, 400.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            found = tuple(field_errors(error))
            unknown = {field.code for field in found} == {UnknownParameter.code}
            raise (UnknownParameter if unknown else InvalidField)(errors=found) from error

    def as_job(self) -> JobRequest:
        """The job that this is."""
        expiry = self.output_expires_after
        spec = {
            "input_file_id": self.input_file_id,
            "endpoint": self.endpoint,
            "completion_window": self.completion_window,
            "output_expires_s": expiry.seconds if expiry else None,
        }
        return JobRequest(
            kind=KIND,
            spec=spec,
            tier=Tier.BATCH,
            gpu_class=self.gpu_class,
            priority=self.priority,
            metadata=self.metadata or {},
            webhook=self.webhook,
        )


class BatchProblems(Out):
    """Why the input file cannot be used."""

    object: Literal["list"] = "list"
    data: list[Problem]


class BatchCounts(Out):
    """Lines of the batch. When it has ended, `completed` and `failed` make up the total."""

    total: int
    completed: int
    failed: int


class BatchUsage(Out):
    """Tokens of the whole batch; what was answered with another line's answer has cost none."""

    class Input(Out):
        """Of the input tokens."""

        cached_tokens: int = Field(description="found in an engine's KV cache; known when the batch has ended")

    class Output(Out):
        """Of the output tokens."""

        reasoning_tokens: int = 0

    input_tokens: int
    input_tokens_details: Input
    output_tokens: int
    output_tokens_details: Output
    total_tokens: int


class BatchOut(Out):
    """A batch. Completed, failed, expired and cancelled ones never change again."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = Field(description="null before the file is read, and when its lines name several")
    errors: BatchProblems | None = Field(description="of a file that cannot be used")
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None = Field(description="null when no line was answered")
    error_file_id: str | None = Field(description="null when every line was answered")
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    usage: BatchUsage | None = Field(description="null while nothing was counted")
    metadata: dict[str, str]
    job_id: UUID = Field(description="ours: `/v1/jobs/{job_id}` has its events, logs and artifacts")
    progress: ProgressOut = Field(description="ours")
    cost: float = Field(description="ours: GPU-hours times the class's price")
    gpu_seconds: float = Field(description="ours")
    retry_of: str | None = Field(description="ours: the batch whose failed lines these are")
    webhook: WebhookOut | None = Field(description="ours")

    @classmethod
    def of(cls, shown: BatchView, *, secret: str | None = None) -> Self:
        """The resource of a batch; `secret` is the webhook secret that its submit made."""
        job, row, spent = shown.job, shown.row, shown.view.family or shown.job
        state, ended = State(job.state), unix_seconds(job.finished_at)
        problems = None if row.errors is None else [Problem.model_validate(each) for each in row.errors]
        counts = shown.counts
        return cls(
            id=public_id(job.id),
            endpoint=row.endpoint,
            model=row.model,
            errors=None if problems is None else BatchProblems(data=problems),
            input_file_id=prefixed(FILE, row.input_file_id),
            completion_window=row.completion_window,
            status=shown.status,
            output_file_id=_file(row.output_file_id),
            error_file_id=_file(row.error_file_id),
            created_at=int(job.created_at.timestamp()),
            in_progress_at=None if state is State.FAILED else unix_seconds(job.started_at),
            expires_at=unix_seconds(job.deadline_at),
            finalizing_at=unix_seconds(row.finalizing_at),
            completed_at=ended if state is State.SUCCEEDED else None,
            failed_at=ended if state is State.FAILED else None,
            expired_at=ended if state is State.EXPIRED else None,
            cancelling_at=unix_seconds(job.cancel_requested_at),
            cancelled_at=ended if state is State.CANCELLED else None,
            request_counts=BatchCounts(total=counts.total, completed=counts.completed, failed=counts.failed),
            usage=_usage(shown),
            metadata=job.meta,
            job_id=job.id,
            progress=ProgressOut.of(shown.view),
            cost=spent.cost,
            gpu_seconds=spent.gpu_seconds,
            retry_of=None if job.retry_of is None else public_id(job.retry_of),
            webhook=None if job.webhook is None else WebhookOut(**job.webhook, secret=secret),
        )


def _usage(shown: BatchView) -> BatchUsage | None:
    spent = shown.view.family or shown.job
    read, written = spent.prompt_tokens, spent.completion_tokens
    if not read and not (State(shown.job.state).terminal and shown.row.total):
        return None
    return BatchUsage(
        input_tokens=read,
        input_tokens_details=BatchUsage.Input(cached_tokens=shown.row.cached_tokens),
        output_tokens=written,
        output_tokens_details=BatchUsage.Output(),
        total_tokens=read + written,
    )


def _file(id: UUID | None) -> str | None:
    return None if id is None else prefixed(FILE, id)
