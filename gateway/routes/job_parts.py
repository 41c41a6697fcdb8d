"""What belongs to a job: logs, metrics, attempts, checkpoints, result, webhook deliveries, why it is where it is."""

from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from gateway.deps import CallerDep, JobId, SessionDep
from gateway.routing import Route, needs
from gateway.schemas.common import Page
from gateway.schemas.job_parts import AttemptOut, CheckpointOut, LogOut, MetricOut, ResultOut
from gateway.schemas.webhooks import DeliveryOut
from services.accounts.service import Scope
from services.jobs import explain, repository, results, service, views
from services.jobs.explain import Explanation
from services.webhooks import service as webhooks

LOG_LINES = 1000  #: longest page of a log
METRICS = 1000  #: longest page of metrics

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], route_class=Route)


@router.get(
    "/logs",
    response_model=Page[LogOut],
    responses={200: {"content": {"text/plain": {}}, "description": "a page of lines"}},
    openapi_extra=needs(Scope.JOBS_READ),
)
def list_logs(
    job_id: JobId,
    session: SessionDep,
    caller: CallerDep,
    *,
    limit: Annotated[int, Query(ge=1, description="lines of a page; at most 1000")] = 100,
    after: Annotated[int, Query(ge=0, lt=2**63, description="id of the line before the page")] = 0,
    accept: Annotated[str, Header(description="text/plain for lines without JSON")] = "",
) -> Page[LogOut] | Response:
    """Lines that the job's attempts wrote, oldest first."""
    limit = min(limit, LOG_LINES)
    job = service.get(session, caller.tenant_id, job_id)
    rows = repository.logs(session, caller.tenant_id, job.id, after=after, limit=limit + 1)
    page = Page[LogOut].of(rows, limit=limit, shown=LogOut.of)
    if not accept.startswith("text/plain"):
        return page
    lines = (
        f"{line.created_at:%Y-%m-%dT%H:%M:%S.%fZ} {line.attempt} {line.level} {line.message}\n" for line in page.data
    )
    return Response("".join(lines), media_type="text/plain")


@router.get("/attempts", openapi_extra=needs(Scope.JOBS_READ))
def list_attempts(job_id: JobId, session: SessionDep, caller: CallerDep) -> Page[AttemptOut]:
    """Every claim of the job by a worker, first to last."""
    job = service.get(session, caller.tenant_id, job_id)
    rows = repository.attempts(session, caller.tenant_id, job.id)
    return Page[AttemptOut].of(rows, limit=len(rows), shown=AttemptOut.of)


@router.get("/metrics", openapi_extra=needs(Scope.JOBS_READ))
def list_metrics(
    job_id: JobId,
    session: SessionDep,
    caller: CallerDep,
    *,
    limit: Annotated[int, Query(ge=1, description="steps of a page; at most 1000")] = 100,
    after: Annotated[int, Query(ge=-1, lt=2**63, description="the step before the page")] = -1,
) -> Page[MetricOut]:
    """Figures of a run, step by step, from its beginning. A step that an attempt did again has its newest figures."""
    limit = min(limit, METRICS)
    job = service.get(session, caller.tenant_id, job_id)
    rows = repository.metrics(session, caller.tenant_id, job.id, after=after, limit=limit + 1)
    return Page[MetricOut].of(rows, limit=limit, shown=MetricOut.of)


@router.get("/result", openapi_extra=needs(Scope.JOBS_READ))
def get_result(job_id: JobId, session: SessionDep, caller: CallerDep) -> ResultOut:
    """What a finished calibration, quantization, evaluation, tuning or merge came to; other kinds leave artifacts."""
    return ResultOut.of(results.of_job(session, caller.tenant_id, job_id))


@router.get("/checkpoints", openapi_extra=needs(Scope.JOBS_READ))
def list_checkpoints(job_id: JobId, session: SessionDep, caller: CallerDep) -> Page[CheckpointOut]:
    """Points from which a later attempt may go on, newest first."""
    job = service.get(session, caller.tenant_id, job_id)
    rows = views.checkpoints(session, caller.tenant_id, job.id)
    return Page[CheckpointOut].of(rows, limit=len(rows), shown=CheckpointOut.of)


@router.get("/webhook_deliveries", openapi_extra=needs(Scope.WEBHOOKS_READ))
def list_deliveries(job_id: JobId, session: SessionDep, caller: CallerDep) -> Page[DeliveryOut]:
    """What became of the job's events at its webhook, with every try."""
    job = service.get(session, caller.tenant_id, job_id)
    logs = webhooks.of_job(session, caller.tenant_id, job.id)
    return Page[DeliveryOut].of(logs, limit=len(logs), shown=DeliveryOut.of)


@router.get("/explain", openapi_extra=needs(Scope.JOBS_READ))
def explain_job(job_id: JobId, session: SessionDep, caller: CallerDep) -> Explanation:
    """Why the job is where it is: its place in the claim's own order, what it waits for, where it will run."""
    return explain.explain(session, service.get(session, caller.tenant_id, job_id))
