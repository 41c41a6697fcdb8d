"""Chains as tests ask for them, and how their jobs end."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from services.jobs import late, lifecycle, service
from services.jobs.types import Outcome
from shared.contracts.jobs import JobRequest
from shared.db.models import CompressionJob, Job, Model, TuningJob
from shared.errors import ModelyardError
from tests.services.compression.build import model
from tests.services.jobs import build

FORGE = "cpu.forge"
PROBE: dict[str, Any] = {"kind": "probe", "spec": {"steps": 0}}
FILE = f"file-{'0' * 32}"


def asked(kind: str, *behind: dict[str, Any], **spec: Any) -> dict[str, Any]:
    usual: dict[str, dict[str, Any]] = {
        "quantization": {"scheme": "fp16", "evaluation": None},
        "evaluation": {"tasks": [{"type": "text"}]},
    }
    given = {"model": "$result", **usual.get(kind, {}), **spec}
    return {"kind": kind, "spec": given, "gpu_class": "cpu", "on_success": list(behind)}


def quantize(*behind: dict[str, Any], **spec: Any) -> JobRequest:
    """A quantization of `tiny` with jobs behind it."""
    return JobRequest.model_validate(asked("quantization", *behind, **{"model": "tiny", "name": "small", **spec}))


def submit(session: Session, tenant: UUID, request: JobRequest) -> list[Job]:
    """The job and those behind it, the first of each level, in order."""
    jobs = [service.submit(session, tenant, request).job]
    while found := session.scalar(select(Job).where(Job.after_job_id == jobs[-1].id)):
        jobs.append(found)
    return jobs


def refused(session: Session, tenant: UUID, request: dict[str, Any] | JobRequest) -> ModelyardError:
    """Why a request is refused, at submit and by `validate_only` alike."""
    wanted = JobRequest.model_validate(request)
    told = []
    for judge in (service.submit, service.draft):
        with pytest.raises(ModelyardError) as error, session.begin_nested():
            judge(session, tenant, wanted)
        told.append((error.value.code, error.value.param, error.value.message))
    assert told[0] == told[1]
    return error.value


def end(session: Session, job: Job, made: Model | None) -> None:
    """Run a job of a forge to its end, with a model where it makes one."""
    (claim,) = build.claim(session, queue=FORGE)
    assert claim.job_id == job.id
    columns = session.get(TuningJob, job.id) or session.get_one(CompressionJob, job.id)
    columns.result_model_id = made.id if made else None
    session.flush()
    lifecycle.end(session, [build.ending(claim, Outcome.SUCCEEDED)])


def succeed(session: Session, tenant: UUID, job: Job) -> Model:
    """Let a quantization make the next version of `small`."""
    made = model(session, tenant, name="small", version=1 + session.query(Model).filter_by(name="small").count())
    end(session, job, made)
    return made


def tasks(session: Session) -> list[tuple[str, UUID]]:
    rows = session.execute(text("SELECT kind, job_id FROM control_tasks ORDER BY job_id, kind"))
    return [(row.kind, row.job_id) for row in rows]


def plan(session: Session, tenant: UUID, job: Job) -> Job:
    """What the courier does, but for its look at the layers."""
    request = late.request_of(session, tenant, job.id)
    assert request is not None
    assert late.plan(session, tenant, job.id, request)
    return fresh(session, job)


def fresh(session: Session, job: Job) -> Job:
    return session.get_one(Job, job.id, populate_existing=True)
