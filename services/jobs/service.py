"""Verbs on jobs, for the gateway and the CLI. Each takes the caller's tenant; nothing here commits."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError
from sqlalchemy.orm import Session

from services.jobs import control_repository as control
from services.jobs import lifecycle, repository
from services.jobs.insert_repository import insert_all
from services.jobs.kinds import Kind, Prepared, kind
from services.jobs.plan import Plan, choose
from services.jobs.types import NewJob
from services.webhooks import service as webhooks
from shared import failpoints
from shared.clock import utc_now
from shared.contracts.jobs import Driver, EventType, JobRequest, State, Tier
from shared.db.models import Job
from shared.errors import AlreadyFinished, FieldError, NotFinished, NotFound, Unprocessable, ValidationFailed, inside
from shared.ids import new_id, parse_prefixed
from shared.queues import AUTO, CONTROL
from shared.queues import gpu_class as known_class
from shared.settings import settings

CHILD_LINES = 1000  #: a job of more lines becomes a parent with children of so many
CONTROLLED = "its lines are read first; each part is planned then"  #: why a job is not placed yet


@dataclass(frozen=True)
class Submitted:
    """The new job, and the webhook secret when the platform made one (shown once)."""

    job: Job
    webhook_secret: str | None = None


@dataclass(frozen=True)
class Part:
    """The lines of one child, in the order in which they are run, and what it does not inherit from its parent."""

    lines: tuple[dict[str, Any], ...]
    first_line: int = 0  #: number of the first line; they are numbered on from it,
    numbers: tuple[int, ...] | None = None  #: unless each has a number of its own
    custom_ids: tuple[str | None, ...] | None = None
    plan: Plan | None = None
    planned_gpu_s: float | None = None
    spec: dict[str, Any] | None = None


@dataclass(frozen=True)
class Draft:
    """A checked request that nothing has been written for."""

    request: JobRequest
    kind: Kind
    prepared: Prepared
    plan: Plan


def submit(session: Session, tenant_id: UUID, request: JobRequest) -> Submitted:
    """Check, plan and write a job with its first event, bell and lines, and the jobs of `on_success` behind it.

    Raises:
        ValidationFailed: a field of `spec` is wrong (each named as `spec.field`).
        UnknownModel, UnknownClass, Unplaceable, InvalidField: as the kind and the planner find.
    """
    made = _submit(session, tenant_id, request, request_sha256=fingerprint(request))
    failpoints.hit("submit.before_commit")
    return made


def submit_all(session: Session, asked: Sequence[tuple[UUID, JobRequest]]) -> list[Submitted]:
    """`submit` for several (tenant, request) at once, none of which names an earlier or a later job: all or none.

    Raises:
        ModelyardError: as `submit`, for any of them.
    """
    drafts = [_draft(session, tenant_id, request) for tenant_id, request in asked]
    rows = [
        _row(tenant_id, drafted, request_sha256=fingerprint(drafted.request), after=None)
        for (tenant_id, _), drafted in zip(asked, drafts, strict=True)
    ]
    jobs = insert_all(session, [new for new, _ in rows])
    for job, (new, _), drafted in zip(jobs, rows, drafts, strict=True):
        _follow(session, job, new, drafted.prepared)
        failpoints.hit("submit.before_commit")
    return [Submitted(job, secret) for job, (_, secret) in zip(jobs, rows, strict=True)]


def fingerprint(request: JobRequest) -> bytes:
    """The sha256 of a request in its canonical form: the same for bodies that differ in spelling alone."""
    return hashlib.sha256(request.model_dump_json().encode()).digest()


def _submit(
    session: Session,
    tenant_id: UUID,
    request: JobRequest,
    *,
    request_sha256: bytes | None = None,
    behind: Job | None = None,
) -> Submitted:
    drafted = _draft(session, tenant_id, request)
    after = behind or _predecessor(session, tenant_id, request)
    new, secret = _row(tenant_id, drafted, request_sha256=request_sha256, after=after)
    job = _write(session, new, drafted.prepared)
    for index, later in enumerate(request.on_success):
        with inside(f"on_success.{index}"):
            _submit(session, tenant_id, later, behind=job)
    return Submitted(job, secret)


def draft(session: Session, tenant_id: UUID, request: JobRequest) -> Draft:
    """Check and plan without writing: `validate_only=true`. Refuses whatever `submit` would.

    Raises:
        ModelyardError: as `submit`.
    """
    drafted = _draft(session, tenant_id, request)
    _predecessor(session, tenant_id, request)
    if request.webhook:
        webhooks.target(tenant_id, request.webhook)
    for index, later in enumerate(request.on_success):
        with inside(f"on_success.{index}"):
            draft(session, tenant_id, later)
    return drafted


def _draft(session: Session, tenant_id: UUID, request: JobRequest) -> Draft:
    row = kind(request.kind)
    if request.deadline is not None and request.deadline <= utc_now():
        msg = "deadline is in the past"
        raise Unprocessable(msg, param="deadline")
    spec = _spec(row, request.spec)
    prepared = row.prepare(session, tenant_id, spec)
    return Draft(request, row, prepared, _plan(session, row, spec, prepared, gpu_class=request.gpu_class))


def _plan(session: Session, row: Kind, spec: Any, prepared: Prepared, *, gpu_class: str) -> Plan:
    if prepared.needs is not None:
        return choose(session, pool=row.pool(spec), gpu_class=gpu_class, needs=prepared.needs)
    if gpu_class != AUTO:
        known_class(gpu_class)
    return Plan(
        gpu_class, CONTROL, devices=1, tensor_parallel=1, memory_bytes=0, price_per_gpu_hour=0.0, reason=CONTROLLED
    )


def _spec(row: Kind, given: dict[str, Any]) -> Any:
    try:
        return row.spec.model_validate_json(orjson.dumps(given))
    except ValidationError as error:
        raise ValidationFailed(errors=tuple(field_errors(error, "spec"))) from error


def field_errors(error: ValidationError, root: str = "") -> list[FieldError]:
    """Pydantic's findings as fields of ours: `spec.max_tokens`, code, message. Never echoes the input."""
    found = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        path = ".".join(str(part) for part in ((root,) if root else ()) + item["loc"])
        code = "unknown_parameter" if item["type"] == "extra_forbidden" else item["type"]
        found.append(FieldError(path, code, item["msg"]))
    return found


def _predecessor(session: Session, tenant_id: UUID, request: JobRequest) -> Job | None:
    if request.after_job_id is None:
        return None
    job = repository.get(session, tenant_id, request.after_job_id, lock=True)
    if job is None:
        msg = "after_job_id names no job of yours"
        raise Unprocessable(msg, param="after_job_id")
    if State(job.state).terminal and job.state != State.SUCCEEDED:
        msg = f"after_job_id names a job that has {job.state}: it can never be waited for"
        raise Unprocessable(msg, param="after_job_id")
    return job


def _row(
    tenant_id: UUID, drafted: Draft, *, request_sha256: bytes | None, after: Job | None
) -> tuple[NewJob, str | None]:
    request, prepared, plan = drafted.request, drafted.prepared, drafted.plan
    hook = webhooks.target(tenant_id, request.webhook) if request.webhook else None
    parent = prepared.expand or len(prepared.lines) > prepared.job_lines
    deadline = _earlier(request.deadline, prepared.deadline_s)
    new = NewJob(
        id=new_id(),
        tenant_id=tenant_id,
        kind=request.kind,
        spec=prepared.spec,
        gpu_class=plan.gpu_class,
        queue=plan.queue,
        tier=request.tier.rank,
        priority=request.priority,
        devices=plan.devices,
        plan=asdict(plan) | {"planned_gpu_s": prepared.planned_gpu_s},
        planned_gpu_s=prepared.planned_gpu_s,
        max_failures=request.max_failures or settings().max_failures,
        max_lost=settings().max_lost,
        driver=Driver.CHILDREN if parent else Driver.WORKER,
        metadata=request.metadata,
        request_sha256=request_sha256,
        max_runtime_s=request.max_runtime_s,
        run_after=request.run_after,
        deadline_at=deadline,
        blocked=after is not None and after.state != State.SUCCEEDED,
        held=request.paused,
        after_job_id=after.id if after else None,
        progress_total=prepared.total,
        progress_unit=prepared.unit,
        webhook=hook.stored if hook else None,
        webhook_secret=hook.encrypted_secret if hook else None,
        lines=() if parent else prepared.lines,
    )
    return new, hook.generated_secret if hook else None


def _earlier(deadline: datetime | None, within_s: float | None) -> datetime | None:
    own = None if within_s is None else utc_now() + timedelta(seconds=within_s)
    return min(filter(None, (deadline, own)), default=None)


def _write(session: Session, new: NewJob, prepared: Prepared) -> Job:
    job = repository.insert(session, new)
    _follow(session, job, new, prepared)
    return job


def _follow(session: Session, job: Job, new: NewJob, prepared: Prepared) -> None:
    """What belongs to a row that was written just now."""
    if prepared.extend:
        prepared.extend(session, job.id)
    lifecycle.tell(session, job, EventType.QUEUED, 1)
    if prepared.expand:
        if not new.blocked:
            control.add_task(session, new.tenant_id, job.id, "expand")
    elif new.driver is Driver.CHILDREN:
        add_children(
            session,
            job,
            prepared.lines,
            first_line=0,
            extend=prepared.extend_child or prepared.extend,
            size=prepared.child_lines,
            spec=prepared.child_spec,
        )
        if not new.blocked:
            lifecycle.start_parent(session, job.id, owner=job.id)


def add_children(
    session: Session,
    parent: Job,
    lines: tuple[dict[str, Any], ...],
    *,
    first_line: int,
    extend: Any = None,
    size: int = CHILD_LINES,
    spec: dict[str, Any] | None = None,
) -> None:
    """Insert ordinary child jobs of `size` lines each, numbered on from `first_line` in the parent's input."""
    parts = [
        Part(lines[start : start + size], first_line=first_line + start, spec=spec)
        for start in range(0, len(lines), size)
    ]
    at_once = max(1, CHILD_LINES // size)  # so many lines to a statement, however small the children are
    for start in range(0, len(parts), at_once):
        for child in insert_all(session, [child_of(parent, part) for part in parts[start : start + at_once]]):
            if extend:
                extend(session, child.id)


def add_child(
    session: Session, parent: Job, part: Part, *, extend: Callable[[Session, UUID], None] | None = None
) -> Job:
    """Insert an ordinary child job that runs a part of the parent's lines."""
    child = repository.insert(session, child_of(parent, part))
    if extend:
        extend(session, child.id)
    return child


def child_of(parent: Job, part: Part) -> NewJob:
    """A child row: the parent's place in the queue unless it has a plan of its own, and a part of its lines."""
    lines, plan = part.lines, part.plan
    share = parent.planned_gpu_s * len(lines) / max(1, parent.progress_total or len(lines))
    return NewJob(
        id=new_id(),
        tenant_id=parent.tenant_id,
        kind=parent.kind,
        spec=parent.spec if part.spec is None else part.spec,
        gpu_class=plan.gpu_class if plan else parent.gpu_class,
        queue=plan.queue if plan else parent.queue,
        tier=parent.tier,
        priority=parent.priority,
        devices=plan.devices if plan else parent.devices,
        plan=asdict(plan) if plan else parent.plan,
        planned_gpu_s=share if part.planned_gpu_s is None else part.planned_gpu_s,
        max_failures=parent.max_failures,
        max_lost=parent.max_lost,
        max_runtime_s=parent.max_runtime_s,
        run_after=parent.run_after,
        deadline_at=parent.deadline_at,
        blocked=parent.blocked,
        after_job_id=parent.after_job_id if parent.blocked else None,
        held=parent.held_at is not None,
        parent_id=parent.id,
        root_id=parent.root_id or parent.id,
        progress_total=len(lines),
        progress_unit=parent.progress_unit,
        lines=lines,
        first_line=part.first_line,
        numbers=part.numbers,
        custom_ids=part.custom_ids,
    )


def get(session: Session, tenant_id: UUID, job_id: UUID) -> Job:
    """The caller's job.

    Raises:
        NotFound: no such job, or another tenant's.
    """
    job = repository.get(session, tenant_id, job_id)
    if job is None:
        msg = f"no job {job_id}"
        raise NotFound(msg, param="job_id")
    return job


def parent_of(session: Session, tenant_id: UUID, public: str, *, prefix: str, kind: str) -> Job:
    """The tenant's parent job of a kind behind the public id that its own routes give it.

    Raises:
        NotFound: there is none of that id (`<kind>_id`).
    """
    parsed = parse_prefixed(prefix, public)
    job = None if parsed is None else repository.get(session, tenant_id, parsed)
    if job is None or job.kind != kind or job.driver != Driver.CHILDREN:
        raise NotFound(f"There is no such {kind.replace('_', ' ')}.", param=f"{kind}_id")
    return job


def cancel(session: Session, tenant_id: UUID, job_id: UUID, *, reason: str = "requested") -> Job:
    """Stop a job: at once when it waits, within `cancel_abort_s` + `cancel_term_s` when it runs."""
    get(session, tenant_id, job_id)
    lifecycle.cancel(session, tenant_id, job_id, reason=reason)
    failpoints.hit("cancel.after_flag")
    return get(session, tenant_id, job_id)


def pause(session: Session, tenant_id: UUID, job_id: UUID) -> Job:
    """Hold a job.

    Raises:
        AlreadyFinished: there is nothing left to hold.
    """
    if State(get(session, tenant_id, job_id).state).terminal:
        raise AlreadyFinished
    lifecycle.hold(session, tenant_id, job_id)
    return get(session, tenant_id, job_id)


def resume(session: Session, tenant_id: UUID, job_id: UUID) -> Job:
    """Let a held job go on; one that is not held stays as it is.

    Raises:
        AlreadyFinished: there is nothing left to resume.
    """
    if State(get(session, tenant_id, job_id).state).terminal:
        raise AlreadyFinished
    lifecycle.resume(session, tenant_id, job_id)
    return get(session, tenant_id, job_id)


def retry(session: Session, tenant_id: UUID, job_id: UUID, *, spec: dict[str, Any] | None = None) -> Submitted:
    """Run a finished job again, as a new job with the same spec and lines (`retry_of`, same `root_id`), or with `spec`.

    Raises:
        NotFinished: it is still queued or running.
    """
    old = get(session, tenant_id, job_id)
    if not State(old.state).terminal:
        raise NotFinished
    whole = old if old.parent_id is None else get(session, tenant_id, old.parent_id)  # a child may hold less of it
    request = JobRequest(
        kind=old.kind,
        spec=whole.spec if spec is None else spec,
        gpu_class=old.gpu_class,
        tier=Tier.of_rank(old.tier),
        priority=old.priority,
        max_runtime_s=old.max_runtime_s,
        max_failures=old.max_failures,
        metadata=old.meta,
    )
    drafted = _redraft(session, old, request)
    new, _ = _row(tenant_id, drafted, request_sha256=None, after=None)
    new = replace(
        new,
        retry_of=old.id,
        root_id=old.root_id or old.id,
        webhook=old.webhook,
        webhook_secret=old.webhook_secret,
    )
    return Submitted(_write(session, new, drafted.prepared))


def _redraft(session: Session, old: Job, request: JobRequest) -> Draft:
    row = kind(old.kind)
    if row.restore is None:
        spec = row.spec.model_validate(request.spec)
    else:
        inputs = tuple(line.input for line in repository.lines(session, old.tenant_id, old.id, limit=100_000))
        spec = row.restore(request.spec, inputs)
    prepared = row.prepare(session, old.tenant_id, spec)
    return Draft(request, row, prepared, _plan(session, row, spec, prepared, gpu_class=request.gpu_class))
