"""Verbs on jobs, for the gateway and the CLI. Each takes the caller's tenant; nothing here commits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs import drafting, late, lifecycle, parents, repository
from services.jobs.drafting import Draft, field_errors, fingerprint
from services.jobs.insert_repository import insert_all
from services.jobs.kinds import Prepared, kind
from services.jobs.parents import CHILD_LINES, Part, add_child, add_children, child_of
from services.jobs.types import NewJob
from services.webhooks import service as webhooks
from shared import failpoints
from shared.contracts.jobs import Driver, EventType, JobRequest, State, Tier
from shared.db.models import Job
from shared.errors import AlreadyFinished, NotFinished, NotFound, Unprocessable, inside
from shared.ids import parse_prefixed

__all__ = [
    "CHILD_LINES", "Draft", "Part", "Submitted", "add_child", "add_children", "cancel", "child_of", "draft",
    "field_errors", "fingerprint", "get", "parent_of", "pause", "resume", "retry", "submit", "submit_all",
]  # fmt: skip


@dataclass(frozen=True)
class Submitted:
    """The new job, and the webhook secret when the platform made one (shown once)."""

    job: Job
    webhook_secret: str | None = None


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
        drafting.row_of(tenant_id, drafted, request_sha256=fingerprint(drafted.request), after=None)
        for (tenant_id, _), drafted in zip(asked, drafts, strict=True)
    ]
    jobs = insert_all(session, [new for new, _ in rows])
    for job, drafted in zip(jobs, drafts, strict=True):
        _follow(session, job, drafted.prepared)
        failpoints.hit("submit.before_commit")
    return [Submitted(job, secret) for job, (_, secret) in zip(jobs, rows, strict=True)]


def _submit(
    session: Session,
    tenant_id: UUID,
    request: JobRequest,
    *,
    request_sha256: bytes | None = None,
    behind: Job | None = None,
    chain: tuple[JobRequest, ...] = (),
) -> Submitted:
    """`behind`: the job that it follows in the same request; `chain`: the requests before it, the nearest last."""
    drafted = _draft(session, tenant_id, request, behind=behind, chain=chain)
    after = behind or _predecessor(session, tenant_id, request)
    new, secret = drafting.row_of(tenant_id, drafted, request_sha256=request_sha256, after=after)
    job = _write(session, new, drafted.prepared)
    for index, later in enumerate(request.on_success):
        with inside(f"on_success.{index}"):
            _submit(session, tenant_id, later, behind=job, chain=(*chain, request))
    return Submitted(job, secret)


def draft(session: Session, tenant_id: UUID, request: JobRequest) -> Draft:
    """Check and plan without writing: `validate_only=true`. Refuses whatever `submit` would.

    Raises:
        ModelyardError: as `submit`.
    """
    return _drafts(session, tenant_id, request)


def _drafts(session: Session, tenant_id: UUID, request: JobRequest, *, chain: tuple[JobRequest, ...] = ()) -> Draft:
    drafted = _draft(session, tenant_id, request, chain=chain)
    _predecessor(session, tenant_id, request)
    if request.webhook:
        webhooks.target(tenant_id, request.webhook)
    followers = []
    for index, later in enumerate(request.on_success):
        with inside(f"on_success.{index}"):
            followers.append(_drafts(session, tenant_id, later, chain=(*chain, request)))
    return replace(drafted, followers=tuple(followers))


def _draft(
    session: Session,
    tenant_id: UUID,
    request: JobRequest,
    *,
    behind: Job | None = None,
    chain: tuple[JobRequest, ...] = (),
) -> Draft:
    if late.asked(kind(request.kind), request.spec):
        return late.draft(session, tenant_id, request, behind=behind, chain=chain)
    return drafting.draft(session, tenant_id, request)


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


def _write(session: Session, new: NewJob, prepared: Prepared) -> Job:
    job = repository.insert(session, new)
    _follow(session, job, prepared)
    return job


def _follow(session: Session, job: Job, prepared: Prepared) -> None:
    """What belongs to a row that was written just now."""
    if prepared.extend:
        prepared.extend(session, job.id)
    lifecycle.tell(session, job, EventType.QUEUED, 1)
    parents.unfold(session, job, prepared)


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

    One that named `$result` and was never planned works on the model that the earlier job, or a retry of it, has made.

    Raises:
        NotFinished: it is still queued or running.
        NoModelMade: that earlier job has made none.
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
    new, _ = drafting.row_of(tenant_id, drafted, request_sha256=None, after=None)
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
    if late.unplanned(old):
        spec = drafting.checked(row, late.resolved(session, old, retries=True))
    elif row.restore is None:
        spec = row.spec.model_validate(request.spec)
    else:
        inputs = tuple(line.input for line in repository.lines(session, old.tenant_id, old.id, limit=100_000))
        spec = row.restore(request.spec, inputs)
    return drafting.planned(session, old.tenant_id, request, spec)
