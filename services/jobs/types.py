"""Values of the job lifecycle. Frozen; they never leave the services and workers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from shared.contracts.jobs import Driver, JobError, State, Usage


class Outcome(StrEnum):
    """How an attempt ended, as its runner, gateway or the reaper reports it."""

    SUCCEEDED = "succeeded"  #: the work is done and its artifacts are written in this transaction
    FAILED = "failed"  #: the work went wrong; retried unless permanent or out of failures
    LOST = "lost"  #: nobody drives the attempt any more
    RELEASED = "released"  #: given back on purpose (drain, pause): no counter moves
    CANCELLED = "cancelled"  #: stopped on request, and nothing of it runs any more
    EXPIRED = "expired"  #: the deadline passed


@dataclass(frozen=True)
class Claim:
    """A job that this worker now owns, at `attempt` (the fencing token)."""

    job_id: UUID
    tenant_id: UUID
    kind: str
    spec: dict[str, Any]
    queue: str
    gpu_class: str
    tier: int
    devices: int
    plan: dict[str, Any]
    attempt: int
    lease_id: UUID
    parent_id: UUID | None
    checkpoint_id: UUID | None
    progress_done: int
    progress_total: int | None
    seconds_left: float | None  #: until the deadline, by the database's clock at the claim
    max_runtime_s: float | None
    width: int = 1  #: requests that it can hold in an engine at once: its unfinished lines


@dataclass(frozen=True)
class Beat:
    """A sign of life of one attempt, with its progress (None leaves the number as it is)."""

    job_id: UUID
    attempt: int
    done: int | None = None
    total: int | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Orders:
    """What the owner of an attempt is asked to do; the answer to a heartbeat."""

    cancel: bool
    hold: bool


@dataclass(frozen=True)
class Ending:
    """The end of one attempt. `error` is needed for FAILED and LOST.

    `retry_after_s` overrides the back-off; `permanent` forbids another attempt.
    """

    job_id: UUID
    attempt: int
    outcome: Outcome
    error: JobError | None = None
    permanent: bool = False
    retry_after_s: float | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class Ended:
    """What became of a job whose attempt ended."""

    job_id: UUID
    state: State


@dataclass(frozen=True)
class LineRecord:
    """The result of one line: exactly one of `output` and `error`."""

    job_id: UUID
    attempt: int
    line_no: int
    output: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose blobs are stored. `fingerprint` says which attempts may go on from it."""

    step: int
    fingerprint: str
    manifest: list[dict[str, Any]]
    metrics: dict[str, float] = field(default_factory=dict)  #: the newest figures of its step
    best: bool = False  #: no checkpoint so far was better
    model_id: UUID | None = None  #: the version that it answers as


@dataclass(frozen=True)
class NewJob:
    """A row to insert: everything that submit decides."""

    id: UUID
    tenant_id: UUID
    kind: str
    spec: Mapping[str, Any]
    gpu_class: str
    queue: str
    tier: int
    priority: int
    devices: int
    plan: Mapping[str, Any]
    planned_gpu_s: float
    max_failures: int
    max_lost: int
    driver: Driver = Driver.WORKER
    metadata: Mapping[str, str] = field(default_factory=dict)
    request_sha256: bytes | None = None
    max_runtime_s: float | None = None
    run_after: datetime | None = None
    deadline_at: datetime | None = None
    blocked: bool = False
    held: bool = False
    after_job_id: UUID | None = None
    parent_id: UUID | None = None
    root_id: UUID | None = None
    retry_of: UUID | None = None
    progress_total: int | None = None
    progress_unit: str = "lines"
    webhook: Mapping[str, Any] | None = None
    webhook_secret: bytes | None = None
    lines: tuple[Mapping[str, Any], ...] = ()  #: inputs of `job_items`, in the order in which they are run
    first_line: int = 0  #: number of the first of them; they are numbered on from it,
    numbers: tuple[int, ...] | None = None  #: unless each has a number of its own
    custom_ids: tuple[str | None, ...] | None = None


@dataclass(frozen=True)
class Wanted:
    """Which jobs to list; what is empty does not matter."""

    states: Sequence[State] = ()
    kinds: Sequence[str] = ()
    after_job_id: UUID | None = None  #: those that wait, or waited, for it


@dataclass(frozen=True)
class Placed:
    """A call that a gateway has given to an engine: written already running, at attempt 1."""

    id: UUID
    tenant_id: UUID
    kind: str
    spec: Mapping[str, Any]
    gpu_class: str
    queue: str
    devices: int
    priority: int
    plan: Mapping[str, Any]


@dataclass(frozen=True)
class Lost:
    """An attempt that nobody drives any more."""

    job_id: UUID
    attempt: int
    driver: Driver
