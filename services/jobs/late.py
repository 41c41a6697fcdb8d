"""Jobs that name a model which an earlier job has yet to make: checked at submit, planned when it is there.

In a job of `on_success`, `$result` stands for the model that the job before it makes. Such a job is written *late*:
queued, blocked, in the courier's queue, its spec as given. When the earlier job has succeeded, the control task `plan`
puts `name@version` where `$result` stood and plans the job as a submit would have done. Nothing here commits.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.orm import Session

from services.catalog import repository as models
from services.catalog import service as catalog
from services.jobs import control_repository as control
from services.jobs import drafting, lifecycle, parents, repository
from services.jobs.drafting import Draft
from services.jobs.kinds import Kind, Prepared, kind
from shared.contracts.jobs import Driver, JobError, JobRequest, State
from shared.contracts.tuning import RESULT
from shared.db.models import Job, Model
from shared.errors import FieldError, ModelyardError, Unprocessable, ValidationFailed
from shared.queues import CONTROL

SPEC_BYTES = 64 * 1024  #: of a late spec: it is kept as given, prompts included, until its lines are made


class NoModelMade(Unprocessable):
    """The earlier job has made no model that could be worked on."""

    code = "no_model_made"


def asked(row: Kind, spec: Mapping[str, Any]) -> list[str]:
    """The fields of a spec in which `$result` stands for a model."""
    return [name for name in row.models if spec.get(name) == RESULT]


def unplanned(job: Job) -> bool:
    """Whether a job still names `$result`: it waits for its model, or ended before there was one."""
    return job.blocked and job.queue == CONTROL and job.driver == Driver.WORKER


def draft(
    session: Session, tenant_id: UUID, request: JobRequest, *, behind: Job | None, chain: tuple[JobRequest, ...]
) -> Draft:
    """Check what can be checked of a request that names `$result`. `chain`: the requests before it, the nearest last.

    Raises:
        ValidationFailed: no job before it makes a model, or a field of `spec` is wrong; each names its field.
        UnknownModel: another model that it names is not there, and no job before it makes one of that name.
        Unprocessable, UnknownClass, InvalidField: as the kind and the planner find.
    """
    row = kind(request.kind)
    _check_chain(row, asked(row, request.spec), chain)
    drafting.check_deadline(request)
    spec = drafting.checked(row, request.spec)
    _check_size(request.spec)
    _check_others(session, tenant_id, row, request.spec, chain=chain)
    if row.foresee is not None:
        row.foresee(session, tenant_id, spec)
    before = f"job {behind.id}" if behind else "the job before it"
    plan = drafting.unplaced(request.gpu_class, f"planned when {before} has made its model")
    return Draft(request, row, Prepared(request.spec, needs=None, planned_gpu_s=0.0), plan, late=True)


def _check_chain(row: Kind, fields: list[str], chain: tuple[JobRequest, ...]) -> None:
    if why := _unusable(row, chain[-1] if chain else None):
        message = f"{RESULT} is the model that the job before makes, in a job of on_success: {why}"
        errors = tuple(FieldError(f"spec.{name}", "no_result", message) for name in fields)
        raise ValidationFailed(message, errors=errors)


def _unusable(row: Kind, before: JobRequest | None) -> str:
    """Why a job of this kind cannot work on what the one before it makes; nothing where it can."""
    if before is None:
        return "it stands behind no job of this request"
    earlier = kind(before.kind)
    if earlier.made is None:
        return f"a job of kind {before.kind} makes no model"
    adapter = earlier.makes_adapter is not None and earlier.makes_adapter(drafting.checked(earlier, before.spec))
    if adapter and row.adapters is False:
        return f"that is an adapter here, and a {row.name} needs a whole model; put a merge between the two"
    if not adapter and row.adapters:
        return f"that is a whole model here, and a {row.name} needs an adapter"
    return ""


def _check_size(spec: Mapping[str, Any]) -> None:
    if len(orjson.dumps(spec)) > SPEC_BYTES:
        message = f"A spec with {RESULT} holds at most {SPEC_BYTES} bytes: submit a larger one when its model is there."
        raise Unprocessable(message, param="spec")


def _check_others(
    session: Session, tenant_id: UUID, row: Kind, spec: Mapping[str, Any], *, chain: tuple[JobRequest, ...]
) -> None:
    """Models that it names beside `$result` are there, or jobs before it say that they will be."""
    promised = [before.spec.get(field) for before in chain for field in ("name", "alias")]
    for field in row.models:
        name = spec.get(field)
        if isinstance(name, str) and name != RESULT and name.partition("@")[0] not in promised:
            catalog.get(session, tenant_id, name, param=f"spec.{field}")


def resolved(session: Session, job: Job, *, retries: bool = False) -> dict[str, Any]:
    """The spec of an unplanned job with its model in place; with `retries`, that of the newest retry will do.

    Raises:
        NoModelMade: the earlier job has made none, or it is deleted; names the field.
    """
    assert job.after_job_id is not None, job.id
    fields = asked(kind(job.kind), job.spec)
    model = _made(session, job.tenant_id, job.after_job_id, retries=retries)
    if model is None:
        message = f"Job {job.after_job_id} has made no model, or it is deleted."
        raise NoModelMade(message, param=f"spec.{fields[0]}")
    return job.spec | dict.fromkeys(fields, f"{model.name}@{model.version}")


def _made(session: Session, tenant_id: UUID, job_id: UUID, *, retries: bool) -> Model | None:
    """The living version that a job, or a retry of it, has made; the newest of several."""
    ids = repository.retries(session, tenant_id, job_id) if retries else [job_id]
    for each in ids:
        job = repository.get(session, tenant_id, each)
        makes = kind(job.kind).made if job is not None and job.state == State.SUCCEEDED else None
        made = makes(session, tenant_id, each) if makes else None
        if made is not None and (model := models.living(session, tenant_id, made)) is not None:
            return model
    return None


def request_of(session: Session, tenant_id: UUID, job_id: UUID) -> JobRequest | None:
    """What a waiting late job asks for, now that its model is there; None of one that waits no more.

    Raises:
        NoModelMade: there is no such model.
    """
    job = repository.get(session, tenant_id, job_id)
    if job is None or not _waits(job):
        return None
    spec = resolved(session, job)
    return JobRequest(kind=job.kind, spec=spec, gpu_class=job.gpu_class, deadline=job.deadline_at)


def plan(session: Session, tenant_id: UUID, job_id: UUID, request: JobRequest) -> bool:
    """Plan a waiting late job as `request_of` gave it, and let it go; False when it waits no more.

    Raises:
        ModelyardError: as a submit of the request; nothing was written.
    """
    job = repository.get(session, tenant_id, job_id, lock=True)
    if job is None or not _waits(job):
        return False
    drafted = drafting.planned(session, tenant_id, request, drafting.checked(kind(request.kind), request.spec))
    new, _ = drafting.row_of(tenant_id, drafted, request_sha256=None, after=None)
    control.plan_late(session, replace(new, id=job_id))
    session.refresh(job)
    if drafted.prepared.extend:
        drafted.prepared.extend(session, job_id)
    parents.unfold(session, job, drafted.prepared)
    control.notify_changed(session, [job_id])
    return True


def refuse(session: Session, tenant_id: UUID, job_id: UUID, error: ModelyardError) -> None:
    """Cancel a waiting late job that cannot be planned, and those behind it; one that waits no more stays."""
    job = repository.get(session, tenant_id, job_id, lock=True)
    if job is None or not _waits(job):
        return
    detail = f"{error.param}: {error.message}" if error.param else error.message
    more = f" ({len(error.errors)} fields in all)" if len(error.errors) > 1 else ""
    told = JobError(
        code=error.code, title="The job cannot be planned", detail=f"{detail}{more}", cause=job.after_job_id
    )
    lifecycle.refuse(session, job_id, error=told)


def _waits(job: Job) -> bool:
    return job.state == State.QUEUED and unplanned(job)
