"""`/v1/document_sets`: documents in, checked tables out. Each set is a job of kind `document_set`."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from gateway import openapi
from gateway.deps import PAGE, CallerDep, Limit, PreferHeader, SessionDep, WaitQuery, wait_of
from gateway.edge import edge_of
from gateway.routes import jobs
from gateway.routing import Route, caller_of, needs
from gateway.schemas.common import Page
from gateway.schemas.document_sets import DocumentRecordOut, DocumentSetOut, DocumentSetRequest
from gateway.schemas.jobs import DraftOut
from gateway.submission import ACCEPTED, Wish
from gateway.submitter import Accept
from services.accounts.service import Scope
from services.documents import views
from services.jobs import service
from shared.contracts.jobs import Text
from shared.errors import InvalidCursor, NotFound, outside

router = APIRouter(prefix="/v1/document_sets", tags=["documents"], route_class=Route)

SetId = Annotated[Text, Path(description="id of a document set, `docset_…`")]


@router.post(
    "",
    status_code=ACCEPTED,
    response_model=DocumentSetOut,
    responses={200: {"model": DraftOut, "description": "with `validate_only`: the plan; nothing was written"}},
    openapi_extra=needs(Scope.JOBS_WRITE, **openapi.READ_DOCUMENTS),
)
async def create_document_set(request: Request, wanted: DocumentSetRequest) -> Response:
    """Read uploaded documents with a model. With `wait`, the answer comes when the set has ended or time is up."""
    edge, caller, wish = edge_of(request), caller_of(request), Wish.of(request)
    job = wanted.as_job()
    with outside("spec"):
        if wish.validate_only:
            draft = await edge.transact(lambda session: service.draft(session, caller.tenant_id, job))
            return Response(DraftOut.of(draft).json_bytes(), media_type=jobs.JSON)
        once = replace(wish.once, route="POST /v1/document_sets")
        accept = Accept(caller, job, once, bytes=len(await request.body()))
        accepted = await request.app.state.submitter.submit(accept)
    if wish.wait and not accepted.replayed:
        await jobs.ended(edge, caller.tenant_id, accepted.job_id, seconds=wish.wait)
    shown = await edge.transact(lambda session: views.one(session, caller.tenant_id, accepted.job_id))
    body = DocumentSetOut.of(shown, secret=accepted.secret)
    headers = {"location": f"/v1/document_sets/{body.id}"} | (
        {"idempotent-replayed": "true"} if accepted.replayed else {}
    )
    return Response(body.json_bytes(), ACCEPTED, headers=headers, media_type=jobs.JSON)


@router.get("", openapi_extra=needs(Scope.JOBS_READ))
def list_document_sets(
    session: SessionDep,
    caller: CallerDep,
    *,
    limit: Limit = 20,
    after: Annotated[Text | None, Query(description="id of the set before the page")] = None,
) -> Page[DocumentSetOut]:
    """Document sets, newest first."""
    limit = min(limit, PAGE)
    try:
        start = None if after is None else views.job_of(session, caller.tenant_id, after).id
    except NotFound as error:
        raise InvalidCursor(param="after") from error
    rows = views.page(session, caller.tenant_id, limit=limit + 1, after=start)
    return Page[DocumentSetOut].of(rows, limit=limit, shown=DocumentSetOut.of)


@router.get("/{document_set_id}", openapi_extra=needs(Scope.JOBS_READ))
async def get_document_set(
    request: Request, document_set_id: SetId, *, wait: WaitQuery = None, prefer: PreferHeader = None
) -> DocumentSetOut:
    """One document set. With `wait`, the answer comes when it has ended or time is up."""
    edge, tenant_id = edge_of(request), caller_of(request).tenant_id
    job_id = (await edge.transact(lambda session: views.job_of(session, tenant_id, document_set_id))).id
    if seconds := wait_of(wait, prefer):
        await jobs.ended(edge, tenant_id, job_id, seconds=seconds)
    return DocumentSetOut.of(await edge.transact(lambda session: views.one(session, tenant_id, job_id)))


@router.post("/{document_set_id}/cancel", openapi_extra=needs(Scope.JOBS_CANCEL))
def cancel_document_set(document_set_id: SetId, session: SessionDep, caller: CallerDep) -> DocumentSetOut:
    """Stop a set. Documents that have been read keep their records; one that has ended stays as it is."""
    job = views.job_of(session, caller.tenant_id, document_set_id)
    service.cancel(session, caller.tenant_id, job.id)
    return DocumentSetOut.of(views.one(session, caller.tenant_id, job.id))


@router.get("/{document_set_id}/results", openapi_extra=needs(Scope.JOBS_READ))
def list_document_set_results(
    document_set_id: SetId,
    session: SessionDep,
    caller: CallerDep,
    *,
    limit: Limit = 20,
    after: Annotated[int, Query(ge=-1, lt=2**31, description="index of the record before the page")] = -1,
) -> Page[DocumentRecordOut]:
    """Records of the documents that have been dealt with so far, in the order of the request."""
    limit = min(limit, PAGE)
    job = views.job_of(session, caller.tenant_id, document_set_id)
    rows = views.records(session, caller.tenant_id, job.id, after=after, limit=limit + 1)
    return Page[DocumentRecordOut].of(rows, limit=limit, shown=DocumentRecordOut.of)
