"""A checked request before anything is written: its spec, its plan, and the row that it becomes."""

import hashlib
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError
from sqlalchemy.orm import Session

from services.jobs.kinds import Advice, Kind, Prepared, kind
from services.jobs.plan import Plan, choose
from services.jobs.types import NewJob
from services.webhooks import service as webhooks
from shared.clock import utc_now
from shared.contracts.jobs import Driver, JobRequest, State
from shared.db.models import Job
from shared.errors import FieldError, Unprocessable, ValidationFailed
from shared.ids import new_id
from shared.queues import AUTO, CONTROL
from shared.queues import gpu_class as known_class
from shared.settings import settings

CONTROLLED = "its lines are read first; each part is planned then"  #: why a job is not placed yet


@dataclass(frozen=True)
class Draft:
    """A checked request that nothing has been written for."""

    request: JobRequest
    kind: Kind
    prepared: Prepared
    plan: Plan
    advice: Advice | None = None  #: of kinds that give any
    late: bool = False  #: it is planned when the job before it has made its model; see `late`
    followers: tuple["Draft", ...] = ()  #: of `on_success`


def fingerprint(request: JobRequest) -> bytes:
    """The sha256 of a request in its canonical form: the same for bodies that differ in spelling alone."""
    return hashlib.sha256(request.model_dump_json().encode()).digest()


def draft(session: Session, tenant_id: UUID, request: JobRequest) -> Draft:
    """Check and plan one request, not those behind it.

    Raises:
        ValidationFailed: a field of `spec` is wrong (each named as `spec.field`).
        Unprocessable: the deadline is in the past.
        UnknownModel, UnknownClass, Unplaceable, InvalidField: as the kind and the planner find.
    """
    check_deadline(request)
    return planned(session, tenant_id, request, checked(kind(request.kind), request.spec))


def check_deadline(request: JobRequest) -> None:
    """Refuse what can never be done in time.

    Raises:
        Unprocessable: the deadline is in the past.
    """
    if request.deadline is not None and request.deadline <= utc_now():
        msg = "deadline is in the past"
        raise Unprocessable(msg, param="deadline")


def planned(session: Session, tenant_id: UUID, request: JobRequest, spec: Any) -> Draft:
    """A request whose spec is in its form, prepared and placed, with advice where the kind gives any.

    Raises:
        ModelyardError: as the kind and the planner find.
    """
    row = kind(request.kind)
    prepared = row.prepare(session, tenant_id, spec)
    if prepared.needs is None:
        return Draft(request, row, prepared, unplaced(request.gpu_class, CONTROLLED))
    plan = choose(session, pool=row.pool(spec), gpu_class=request.gpu_class, needs=prepared.needs)
    advice = prepared.advise(plan) if prepared.advise else None
    if advice is not None:
        prepared = replace(prepared, planned_gpu_s=advice.planned_gpu_s)
    return Draft(request, row, prepared, plan, advice=advice)


def unplaced(gpu_class: str, reason: str) -> Plan:
    """The plan of a job that the courier has yet to look at.

    Raises:
        UnknownClass: no class is called so.
    """
    if gpu_class != AUTO:
        known_class(gpu_class)
    return Plan(gpu_class, CONTROL, devices=1, tensor_parallel=1, memory_bytes=0, price_per_gpu_hour=0.0, reason=reason)


def checked(row: Kind, given: dict[str, Any]) -> Any:
    """A spec in the form of its kind.

    Raises:
        ValidationFailed: fields are wrong, each named as `spec.field`.
    """
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


def row_of(
    tenant_id: UUID, drafted: Draft, *, request_sha256: bytes | None, after: Job | None
) -> tuple[NewJob, str | None]:
    """The row that a draft becomes, behind `after`, and the webhook secret if one was made.

    Raises:
        ModelyardError: the webhook's address cannot be used.
    """
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
        max_lost=max(settings().max_lost, drafted.kind.max_lost),
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
