"""The job resource, and the plan of one."""

from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field

from gateway.schemas.artifacts import ArtifactOut
from gateway.schemas.common import Moment, Out
from services.jobs.plan import Plan
from services.jobs.service import Draft
from services.jobs.views import Family, View
from shared.contracts.inference import LineResult
from shared.contracts.jobs import State, Tier
from shared.db.models import Job


class ProgressOut(Out):
    """How far the job is. A parent's is the sum of its children's."""

    done: int
    total: int | None
    unit: str
    rate: float | None = Field(description="units a second since the attempt began; null before the first")
    eta_s: float | None = Field(description="seconds to the end at that rate")

    @classmethod
    def of(cls, view: View) -> Self:
        """Rate and time left as of the last change, so that the same version of a job reads the same."""
        job, family = view.job, view.family
        done, seen = (family.done, family.updated_at) if family else (job.progress_done, job.updated_at)
        rate = _rate(done, job.started_at, job.finished_at or seen)
        left = (job.progress_total or 0) - done
        return cls(
            done=done,
            total=job.progress_total,
            unit=job.progress_unit,
            rate=rate,
            eta_s=round(left / rate, 1) if rate and left > 0 and job.state == State.RUNNING else None,
        )


class UsageOut(Out):
    """What every attempt consumed so far, together."""

    prompt_tokens: int
    completion_tokens: int
    gpu_seconds: float
    cost: float = Field(description="GPU-hours times the class's price")

    @classmethod
    def of(cls, counted: Job | Family) -> Self:
        """What a job, or all children of one, used up."""
        return cls(
            prompt_tokens=counted.prompt_tokens,
            completion_tokens=counted.completion_tokens,
            gpu_seconds=counted.gpu_seconds,
            cost=counted.cost,
        )


class JobErrorOut(Out):
    """Why the job did not succeed."""

    type: str
    code: str
    title: str
    detail: str
    retryable: bool
    attempt: int | None = None
    cause: UUID | None = Field(None, description="the earlier job whose end caused this one's")

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Self:
        """The members of an error as a job or an attempt keeps it."""
        return cls(type=f"/docs#{stored['code']}", **stored)


class WebhookOut(Out):
    """Where events go. A secret that we made is in the answer to the submit, and nowhere else."""

    url: str
    events: list[str] | None = None
    secret: str | None = None


class LinksOut(Out):
    """Paths of what belongs to the job."""

    self: str
    events: str
    logs: str
    explain: str
    attempts: str
    checkpoints: str
    metrics: str
    webhook_deliveries: str

    @classmethod
    def of(cls, job_id: UUID) -> Self:
        """The paths below a job."""
        own = f"/v1/jobs/{job_id}"
        parts = ("events", "logs", "explain", "attempts", "checkpoints", "metrics", "webhook_deliveries")
        return cls(self=own, **{part: f"{own}/{part}" for part in parts})


class JobOut(Out):
    """A job. Terminal states are succeeded, failed, cancelled and expired: then nothing here changes again."""

    id: UUID
    object: Literal["job"] = "job"
    kind: str
    spec: dict[str, Any] = Field(description="as submitted, without its lines")
    state: State
    tier: Tier
    priority: int
    gpu_class: str
    queue: str
    progress: ProgressOut
    attempt: int = Field(description="how often a worker has begun it")
    failure_count: int = Field(description="attempts that failed by the job's own doing")
    lost_count: int = Field(description="attempts lost to the infrastructure")
    max_failures: int
    max_runtime_s: float | None
    error: JobErrorOut | None
    usage: UsageOut
    metadata: dict[str, str]
    webhook: WebhookOut | None
    run_after: Moment
    deadline: Moment | None
    held_at: Moment | None = Field(description="since when it is paused")
    cancel_requested_at: Moment | None
    after_job_id: UUID | None
    parent_id: UUID | None
    root_id: UUID | None
    retry_of: UUID | None
    plan: dict[str, Any]
    artifacts: list[ArtifactOut]
    results: list[LineResult] | None = Field(
        description="the lines of a finished inference job of at most 100; of longer ones, see its artifact"
    )
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    version: int = Field(description="grows with every change; the ETag")
    links: LinksOut

    @classmethod
    def of(cls, view: View, *, secret: str | None = None) -> Self:
        """The resource of a job; `secret` is the webhook secret that was made just now."""
        job = view.job
        return cls(
            id=job.id,
            kind=job.kind,
            spec=job.spec,
            state=State(job.state),
            tier=Tier.of_rank(job.tier),
            priority=job.priority,
            gpu_class=job.gpu_class,
            queue=job.queue,
            progress=ProgressOut.of(view),
            attempt=job.attempt,
            failure_count=job.failure_count,
            lost_count=job.lost_count,
            max_failures=job.max_failures,
            max_runtime_s=job.max_runtime_s,
            error=None if job.error is None else JobErrorOut.of(job.error),
            usage=UsageOut.of(view.family or job),
            metadata=job.meta,
            webhook=None if job.webhook is None else WebhookOut(**job.webhook, secret=secret),
            run_after=job.run_after,
            deadline=job.deadline_at,
            held_at=job.held_at,
            cancel_requested_at=job.cancel_requested_at,
            after_job_id=job.after_job_id,
            parent_id=job.parent_id,
            root_id=job.root_id,
            retry_of=job.retry_of,
            plan=job.plan,
            artifacts=[ArtifactOut.of(each) for each in view.artifacts],
            results=None if view.results is None else list(view.results),
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            version=view.version,
            links=LinksOut.of(job.id),
        )


class DraftOut(Out):
    """What `validate_only=true` answers: the request is good, and this is where it would run."""

    object: Literal["job.plan"] = "job.plan"
    valid: Literal[True] = True
    kind: str
    spec: dict[str, Any] = Field(description="as it would be stored, without its lines")
    plan: Plan
    planned_gpu_s: float | None = Field(description="null: known when the job before it has made its model")
    cost: float | None = Field(description="planned GPU-seconds at the class's price")
    total: int | None
    unit: str
    advice: dict[str, Any] | None = Field(
        description="of a tuning: memory of a device by part, the setting that would be chosen, seconds and cost"
    )
    on_success: list["DraftOut"] = Field(description="the same of the jobs that wait for it")

    @classmethod
    def of(cls, draft: Draft) -> Self:
        """What a checked request would become."""
        planned_s, plan = draft.prepared.planned_gpu_s, draft.plan
        return cls(
            kind=draft.request.kind,
            spec=draft.prepared.spec,
            plan=plan,
            planned_gpu_s=None if draft.late else planned_s,
            cost=None if draft.late else planned_s / 3600 * plan.price_per_gpu_hour,
            total=draft.prepared.total,
            unit=draft.prepared.unit,
            advice=draft.advice.told if draft.advice else None,
            on_success=[DraftOut.of(later) for later in draft.followers],
        )


def _rate(done: int, began: datetime | None, seen: datetime) -> float | None:
    if began is None or not done or seen <= began:
        return None
    return round(done / (seen - began).total_seconds(), 3)
