"""`/v1/batches`: files of requests, as OpenAI's clients make them. Each batch is a job of kind `batch`."""

from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from gateway import openapi
from gateway.deps import PAGE, CallerDep, EdgeDep, Limit, SessionDep
from gateway.edge import edge_of
from gateway.routing import Route, caller_of, needs
from gateway.schemas.batches import BatchOut, BatchRequest
from gateway.schemas.common import Page
from gateway.submission import Once
from gateway.submitter import Accept
from services.accounts.service import Scope
from services.batches import service, views
from services.batches.views import BatchView
from services.idempotency.service import Answer, Key
from shared.errors import InvalidCursor, NotFound, outside

JSON = "application/json"
OK = 200

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=Route)

BatchId = Annotated[str, Path(description="id of a batch, `batch_…`")]
IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", description="one batch however often it is sent; kept for a day")
]


@router.post("", response_model=BatchOut, openapi_extra=needs(Scope.JOBS_WRITE, **openapi.CREATE_BATCH))
async def create_batch(request: Request, body: dict[str, Any], key: IdempotencyKey = None) -> Response:
    """Run every line of an uploaded file. The file is read after the answer; a bad one fails the batch."""
    edge, caller = edge_of(request), caller_of(request)
    once = replace(Once.of(key, retries=request.headers.get("x-stainless-retry-count")), route="POST /v1/batches")
    accept = Accept(caller, BatchRequest.of(body).as_job(), once, bytes=len(await request.body()))
    with outside("spec"):
        accepted = await request.app.state.submitter.submit(accept)
    shown = await edge.transact(lambda session: views.one(session, caller.tenant_id, accepted.job_id))
    made = BatchOut.of(shown, secret=accepted.secret)
    return _answer(made.json_bytes(), accepted.job_id, replayed=accepted.replayed)


@router.get("", openapi_extra=needs(Scope.JOBS_READ))
def list_batches(
    session: SessionDep,
    caller: CallerDep,
    *,
    limit: Limit = 20,
    after: Annotated[str | None, Query(description="id of the batch before the page")] = None,
) -> Page[BatchOut]:
    """Batches, newest first."""
    limit = min(limit, PAGE)
    try:
        start = None if after is None else service.job_of(session, caller.tenant_id, after).id
    except NotFound as error:
        raise InvalidCursor(param="after") from error
    rows = views.page(session, caller.tenant_id, limit=limit + 1, after=start)
    return Page[BatchOut].of(rows, limit=limit, shown=BatchOut.of)


@router.get("/{batch_id}", response_model=BatchOut, openapi_extra=needs(Scope.JOBS_READ))
def get_batch(batch_id: BatchId, session: SessionDep, caller: CallerDep) -> Response:
    """One batch."""
    job = service.job_of(session, caller.tenant_id, batch_id)
    return _shown(views.one(session, caller.tenant_id, job.id))


@router.post("/{batch_id}/cancel", response_model=BatchOut, openapi_extra=needs(Scope.JOBS_CANCEL))
def cancel_batch(batch_id: BatchId, session: SessionDep, caller: CallerDep) -> Response:
    """Stop a batch: lines that are answered are kept. One that has ended stays as it is."""
    job = service.cancel(session, caller.tenant_id, batch_id)
    return _shown(views.one(session, caller.tenant_id, job.id))


@router.post("/{batch_id}/retry", response_model=BatchOut, openapi_extra=needs(Scope.JOBS_WRITE))
def retry_batch(batch_id: BatchId, edge: EdgeDep, caller: CallerDep, key: IdempotencyKey = None) -> Response:
    """Run the lines again that failed, or that nobody ran before the batch ended, as a new batch."""
    once = Once.of(key)
    with edge.database.transaction() as session:
        old = service.retriable(session, caller.tenant_id, batch_id)
        kept = once.key and Key(caller.tenant_id, "POST /v1/batches/{batch_id}/retry", once.key, old.id.bytes)
        if kept and (first := kept.first(session)):
            return _replayed(first)
    lines = service.undone(edge.store, edge.database, old)
    with edge.database.transaction() as session:
        if kept and (first := kept.replay(session)):
            return _replayed(first)
        with outside("spec"):
            made = service.retry(session, old, lines).job
        body = BatchOut.of(views.one(session, caller.tenant_id, made.id)).json_bytes()
        if kept:
            kept.keep(session, Answer(OK, body))
    return _answer(body, made.id)


def _replayed(first: Answer) -> Response:
    return _answer(first.body, orjson.loads(first.body)["job_id"], replayed=True)


def _shown(shown: BatchView) -> Response:
    return _answer(BatchOut.of(shown).json_bytes(), shown.job.id)


def _answer(body: bytes, job_id: UUID | str, *, replayed: bool = False) -> Response:
    headers = {"x-job-id": str(job_id)} | ({"idempotent-replayed": "true"} if replayed else {})
    return Response(body, OK, headers=headers, media_type=JSON)
