"""`/v1/jobs`: submit, look, wait, and the verbs. What is listed below a job is in `job_parts` and `job_events`."""

from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from gateway import openapi, submission
from gateway.deps import PAGE, CallerDep, JobId, Limit, PreferHeader, SessionDep, WaitQuery, wait_of
from gateway.edge import Edge, edge_of
from gateway.etags import etag, expect, fresh
from gateway.examining import look
from gateway.routing import Route, caller_of, needs
from gateway.schemas.common import Page
from gateway.schemas.jobs import DraftOut, JobOut
from gateway.submission import ACCEPTED, Accepted, Once, Wish
from gateway.submitter import Accept
from services.accounts.service import Scope
from services.jobs import service, views
from services.jobs.types import Wanted
from services.jobs.views import View
from shared.clock import monotonic
from shared.contracts.jobs import JobRequest, State, Text
from shared.errors import InvalidCursor

JSON = "application/json"

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Route)

IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", description="one job however often it is sent; kept for a day")
]
IfMatch = Annotated[str | None, Header(description="act only on this version of the job, else 412")]
IfNoneMatch = Annotated[str | None, Header(description="304 when the job is still at this version")]


@router.post(
    "",
    status_code=ACCEPTED,
    response_model=JobOut,
    responses={200: {"model": DraftOut, "description": "with `validate_only`: the plan; nothing was written"}},
    openapi_extra=needs(Scope.JOBS_WRITE, **openapi.SUBMIT),
)
async def submit_job(request: Request, job: JobRequest) -> Response:
    """Submit a job. It is committed when the answer comes; with `wait`, the answer comes when it ends or time is up.

    A model that is to be quantized is looked at first: layers that no pattern means, or no group size divides, are 422.
    """
    edge, caller, wish = edge_of(request), caller_of(request), Wish.of(request)
    await look(edge, caller, job, once=wish.once)
    if wish.validate_only:
        draft = await edge.transact(lambda session: service.draft(session, caller.tenant_id, job))
        return Response(DraftOut.of(draft).json_bytes(), media_type=JSON)
    accept = Accept(caller, job, wish.once, bytes=len(await request.body()))
    accepted = await request.app.state.submitter.submit(accept)
    if not wish.wait or accepted.replayed:
        return _accepted(accepted)
    view = await ended(edge, caller.tenant_id, accepted.job_id, seconds=wish.wait)
    return _shown(view, status=ACCEPTED, secret=accepted.webhook_secret)


@router.get("", openapi_extra=needs(Scope.JOBS_READ))
def list_jobs(
    session: SessionDep,
    caller: CallerDep,
    *,
    limit: Limit = 20,
    after: Annotated[str | None, Query(description="id of the job before the page")] = None,
    before: Annotated[str | None, Query(description="id of the job behind the page")] = None,
    state: Annotated[list[State] | None, Query(description="one or more states")] = None,
    kind: Annotated[list[Text] | None, Query(description="one or more kinds")] = None,
    after_job_id: Annotated[UUID | None, Query(description="those that wait, or waited, for this job")] = None,
) -> Page[JobOut]:
    """Jobs, newest first. Children are listed nowhere; their parent sums them up."""
    limit = min(limit, PAGE)
    rows = views.page(
        session,
        caller.tenant_id,
        limit=limit + 1,
        after=_cursor(after, "after"),
        before=_cursor(before, "before"),
        wanted=Wanted(state or (), kind or (), after_job_id),
    )
    return Page[JobOut].of(rows, limit=limit, shown=JobOut.of, backwards=before is not None)


@router.get(
    "/{job_id}",
    response_model=JobOut,
    responses={304: {"description": "the job is still at the version of If-None-Match"}},
    openapi_extra=needs(Scope.JOBS_READ),
)
async def get_job(
    request: Request,
    job_id: JobId,
    *,
    wait: WaitQuery = None,
    prefer: PreferHeader = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """One job. With `wait`, the answer comes when it ends or time is up."""
    edge, caller = edge_of(request), caller_of(request)
    view = await ended(edge, caller.tenant_id, job_id, seconds=wait_of(wait, prefer))
    tag = etag(view.version)
    if fresh(if_none_match, tag):
        return Response(status_code=304, headers={"etag": tag})
    return _shown(view)


@router.post("/{job_id}/cancel", response_model=JobOut, openapi_extra=needs(Scope.JOBS_CANCEL))
def cancel_job(job_id: JobId, session: SessionDep, caller: CallerDep, if_match: IfMatch = None) -> Response:
    """Stop a job: at once when it waits; when it runs, as soon as nothing of it runs any more."""
    _expect(session, caller, job_id, if_match)
    service.cancel(session, caller.tenant_id, job_id)
    return _shown(views.one(session, caller.tenant_id, job_id))


@router.post("/{job_id}/pause", response_model=JobOut, openapi_extra=needs(Scope.JOBS_WRITE))
def pause_job(job_id: JobId, session: SessionDep, caller: CallerDep, if_match: IfMatch = None) -> Response:
    """Hold a job: what waits is not begun, what runs is put back at its next step."""
    _expect(session, caller, job_id, if_match)
    service.pause(session, caller.tenant_id, job_id)
    return _shown(views.one(session, caller.tenant_id, job_id))


@router.post("/{job_id}/resume", response_model=JobOut, openapi_extra=needs(Scope.JOBS_WRITE))
def resume_job(job_id: JobId, session: SessionDep, caller: CallerDep, if_match: IfMatch = None) -> Response:
    """Let a held job go on."""
    _expect(session, caller, job_id, if_match)
    service.resume(session, caller.tenant_id, job_id)
    return _shown(views.one(session, caller.tenant_id, job_id))


@router.post("/{job_id}/retry", status_code=ACCEPTED, response_model=JobOut, openapi_extra=needs(Scope.JOBS_WRITE))
def retry_job(job_id: JobId, session: SessionDep, caller: CallerDep, key: IdempotencyKey = None) -> Response:
    """Run a finished job again, as a new job whose `retry_of` is this one."""
    return _accepted(submission.retry(session, caller, job_id, once=Once.of(key)))


async def ended(edge: Edge, tenant_id: UUID, job_id: UUID, *, seconds: float) -> View:
    """The job once it has ended, or as it is when `seconds` are over."""
    look = partial(views.one, tenant_id=tenant_id, job_id=job_id)
    until = monotonic() + seconds
    with edge.watch.on(job_id) as bell:
        while True:
            view = await edge.transact(look)
            if State(view.job.state).terminal or not await bell.wait(until=until):
                return view


def _expect(session: SessionDep, caller: CallerDep, job_id: UUID, if_match: str | None) -> None:
    if if_match is not None:
        expect(if_match, etag(views.locked(session, caller.tenant_id, job_id).version))


def _cursor(text: str | None, name: str) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError as error:
        raise InvalidCursor(param=name) from error


def _shown(view: View, *, status: int = 200, secret: str | None = None) -> Response:
    headers = {"etag": etag(view.version)}
    if status == ACCEPTED:
        headers["location"] = f"/v1/jobs/{view.job.id}"
    return Response(JobOut.of(view, secret=secret).json_bytes(), status, headers=headers, media_type=JSON)


def _accepted(accepted: Accepted) -> Response:
    headers = {"location": f"/v1/jobs/{accepted.job_id}"}
    if accepted.replayed:
        headers["idempotent-replayed"] = "true"
    return Response(accepted.body, ACCEPTED, headers=headers, media_type=JSON)
