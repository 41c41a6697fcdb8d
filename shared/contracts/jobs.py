"""A job as callers, services and workers see it: states, tiers, the request of `POST /v1/jobs`, events."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AnyHttpUrl, BaseModel, ConfigDict, Field

METADATA_PAIRS = 16
METADATA_KEY = 64
METADATA_VALUE = 512
CHAIN_LENGTH = 8  #: jobs that wait for one job
CHAIN_JOBS = 64  #: jobs of a whole request, written in one transaction


class State(StrEnum):
    """Where a job is. `queued → running → one of the terminal four`; running may go back to queued."""

    QUEUED = "queued"  #: waiting for a worker of its class, its time, its turn or an earlier job
    RUNNING = "running"  #: claimed by one attempt that holds a lease
    SUCCEEDED = "succeeded"  #: done; its artifacts are committed
    FAILED = "failed"  #: gave up; `error` says why
    CANCELLED = "cancelled"  #: stopped on request; nothing of it runs any more
    EXPIRED = "expired"  #: its deadline passed; partial output is kept

    @property
    def terminal(self) -> bool:
        """Whether the job can never change again."""
        return self not in (State.QUEUED, State.RUNNING)


class Tier(StrEnum):
    """Strict classes of service inside a queue: a lower rank goes first."""

    INTERACTIVE = "interactive"  #: somebody is waiting at the other end
    NORMAL = "normal"  #: the default of `/v1/jobs`
    BATCH = "batch"  #: fills the gaps

    @property
    def rank(self) -> int:
        """0, 1, 2: the order of claiming and the value stored."""
        return list(Tier).index(self)

    @classmethod
    def of_rank(cls, rank: int) -> "Tier":
        """The tier whose stored value is `rank`."""
        return list(cls)[rank]


class Pool(StrEnum):
    """What a queue's jobs run on."""

    SERVE = "serve"  #: resident engines
    FORGE = "forge"  #: one exclusive process group per job


class Driver(StrEnum):
    """Who moves a job on."""

    WORKER = "worker"  #: a runner claims it
    GATEWAY = "gateway"  #: placed by the gateway, already claimed when it is written
    CHILDREN = "children"  #: a parent: its child jobs do the work, it holds no lease


class EventType(StrEnum):
    """Every numbered event of a job; webhooks subscribe to these names."""

    QUEUED = "job.queued"  #: accepted
    STARTED = "job.started"  #: an attempt began
    PROGRESS = "job.progress"  #: done/total moved (at most one a second)
    CHECKPOINT = "job.checkpoint"  #: a checkpoint was committed
    METRICS = "job.metrics"  #: new figures of a run (at most one a second)
    ADJUSTED = "job.adjusted"  #: a run goes on otherwise than it began, and how: it had run out of memory
    RETRYING = "job.retrying"  #: an attempt ended without result; the job is queued again
    PAUSED = "job.paused"  #: held; a running attempt is being released
    RESUMED = "job.resumed"  #: no longer held
    CANCEL_REQUESTED = "job.cancel_requested"  #: running work is being stopped
    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"
    EXPIRED = "job.expired"

    @property
    def terminal(self) -> bool:
        """Whether no event follows this one."""
        return self in TERMINAL_EVENTS


TERMINAL_EVENTS = frozenset({EventType.SUCCEEDED, EventType.FAILED, EventType.CANCELLED, EventType.EXPIRED})


def _no_nul(text: str) -> str:
    """PostgreSQL's text and jsonb cannot hold NUL; lone surrogates are not UTF-8."""
    if "\x00" in text:
        msg = "must not contain the NUL character"
        raise ValueError(msg)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        msg = "must be valid Unicode (a lone surrogate was found)"
        raise ValueError(msg) from error
    return text


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        msg = "needs a UTC offset, as in 2026-01-31T12:00:00Z"
        raise ValueError(msg)
    return moment


Text = Annotated[str, AfterValidator(_no_nul)]
Moment = Annotated[datetime, AfterValidator(_aware)]
Name = Annotated[Text, Field(min_length=1, max_length=256)]


class Contract(BaseModel):
    """A value that crosses a border: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WebhookTarget(Contract):
    """Where the job's events are delivered, as Standard Webhooks 1.0.0."""

    url: Annotated[AnyHttpUrl, Field(description="https URL that answers 2xx")]
    secret: Annotated[str, Field(pattern=r"^whsec_[A-Za-z0-9+/]{32,88}={0,2}$")] | None = Field(
        None, description="`whsec_` and base64 of 24–64 bytes; generated and shown once when absent"
    )
    events: list[EventType] | None = Field(None, description="default: the four terminal events")


def _metadata(pairs: dict[str, str]) -> dict[str, str]:
    if len(pairs) > METADATA_PAIRS:
        msg = f"at most {METADATA_PAIRS} pairs"
        raise ValueError(msg)
    for key, value in pairs.items():
        if not 0 < len(key) <= METADATA_KEY or len(value) > METADATA_VALUE:
            msg = f"keys hold 1–{METADATA_KEY} characters, values at most {METADATA_VALUE}"
            raise ValueError(msg)
    return pairs


Metadata = Annotated[dict[Text, Text], AfterValidator(_metadata)]


def _followers(jobs: list["JobRequest"]) -> list["JobRequest"]:
    if any(job.after_job_id is not None for job in jobs):
        msg = "these jobs wait for the one before them: leave out after_job_id"
        raise ValueError(msg)
    if _count(jobs) >= CHAIN_JOBS:
        msg = f"a request has at most {CHAIN_JOBS} jobs"
        raise ValueError(msg)
    return jobs


def _count(jobs: list["JobRequest"]) -> int:
    return sum(1 + _count(job.on_success) for job in jobs)


class JobRequest(Contract):
    """The body of `POST /v1/jobs`. `spec` is checked against the model of its kind."""

    kind: Name = Field(description="inference, probe, …: see the kind table")
    spec: dict[str, Any] = Field(description="what to do; its fields depend on `kind`")
    gpu_class: Name = Field("auto", description="a GPU class, or `auto`: the cheapest that fits")
    tier: Tier = Field(Tier.NORMAL, description="interactive, normal or batch")
    priority: int = Field(5, ge=0, le=9, strict=True, description="orders inside a tier; 9 goes first")
    run_after: Moment | None = Field(None, description="RFC 3339 with offset: not before")
    deadline: Moment | None = Field(None, description="RFC 3339 with offset: expired if not done by then")
    max_runtime_s: float | None = Field(None, gt=0, le=30 * 86400, description="longest one attempt may run")
    max_failures: int | None = Field(None, ge=1, le=20, description="attempts that may fail by the job's own doing")
    metadata: Metadata = Field(default_factory=dict, description="up to 16 pairs, returned as given")
    webhook: WebhookTarget | None = Field(None, description="where events are delivered, signed")
    after_job_id: UUID | None = Field(None, description="wait until that job has succeeded")
    on_success: Annotated[list["JobRequest"], AfterValidator(_followers)] = Field(
        default_factory=list,
        max_length=CHAIN_LENGTH,
        description="jobs that wait for this one; at most 64 in all. `$result` there: the model that it makes",
    )
    paused: bool = Field(False, description="accept the job but hold it until it is resumed")


class JobError(Contract):
    """Why a job or an attempt did not succeed (RFC 9457 members that make sense here)."""

    code: str
    title: str
    detail: str = ""
    retryable: bool = False
    attempt: int | None = None
    cause: UUID | None = None  #: the earlier job whose end caused this one


class Usage(Contract):
    """What an attempt consumed."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    gpu_seconds: float = 0.0
    cost: float = 0.0  #: in the currency of the class table, per GPU-hour


class Progress(Contract):
    """How far an attempt is, in its own unit (`lines`, `steps`, `layers`)."""

    done: int = 0
    total: int | None = None
    unit: str = "lines"
