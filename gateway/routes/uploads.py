"""`/v1/uploads`: large files in parts, as OpenAI's clients send them."""

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.concurrency import run_in_threadpool

from gateway import openapi
from gateway.deps import CallerDep, EdgeDep, SessionDep
from gateway.edge import Edge
from gateway.routing import Route, needs
from gateway.schemas.uploads import CompleteRequest, UploadOut, UploadPartOut, UploadRequest
from gateway.uploads import Part, receive
from services.accounts.service import Caller, Scope
from services.files import completion, uploads
from services.files.completion import Joining
from shared.clock import monotonic
from shared.errors import inside

OTHER_S = 60.0  #: how long a completion waits for another one of the same upload
LOOK_S = 0.25

router = APIRouter(prefix="/v1/uploads", tags=["files"], route_class=Route)

UploadId = Annotated[str, Path(description="id of an upload, `upload_…`")]


@router.post("", openapi_extra=needs(Scope.FILES_WRITE, **openapi.NEW_UPLOAD_REQUEST))
def create_upload(body: UploadRequest, session: SessionDep, edge: EdgeDep, caller: CallerDep) -> UploadOut:
    """Announce a file of at most 8 GiB (200 MiB for a batch). Its parts have an hour to come."""
    shown = uploads.create(session, caller.tenant_id, body.new(), open_s=edge.settings.upload_expiry_s)
    return UploadOut.of(shown)


@router.post("/{upload_id}/parts", openapi_extra=needs(Scope.FILES_WRITE, **openapi.PART_REQUEST))
async def add_upload_part(upload_id: UploadId, request: Request, edge: EdgeDep, caller: CallerDep) -> UploadPartOut:
    """Send a part of at most 64 MiB. Parts may be sent in parallel, in any order, and twice."""
    upload = await edge.transact(lambda session: uploads.pending(session, caller.tenant_id, upload_id))
    form = await receive(request)
    try:
        return await run_in_threadpool(_store, edge, caller, Part.of(form), upload_id=upload_id, most=upload.bytes)
    finally:
        await form.close()


@router.post("/{upload_id}/complete", openapi_extra=needs(Scope.FILES_WRITE, **openapi.COMPLETE_REQUEST))
async def complete_upload(upload_id: UploadId, body: CompleteRequest, edge: EdgeDep, caller: CallerDep) -> UploadOut:
    """Make a file of these parts, in this order. Sent again with the same parts, it has the same answer."""
    begin = partial(completion.begin, tenant_id=caller.tenant_id, upload_id=upload_id, part_ids=body.part_ids)
    patient_until = monotonic() + OTHER_S
    while (begun := await edge.transact(begin)) is None:
        if monotonic() > patient_until:
            raise uploads.UploadBusy(param="upload_id")
        await asyncio.sleep(LOOK_S)
    if isinstance(begun, Joining):
        begun = await run_in_threadpool(completion.finish, edge.database, edge.store, begun, md5=body.md5)
    return UploadOut.of(begun)


@router.post("/{upload_id}/cancel", openapi_extra=needs(Scope.FILES_WRITE))
def cancel_upload(upload_id: UploadId, session: SessionDep, caller: CallerDep) -> UploadOut:
    """Give an upload and its parts up."""
    return UploadOut.of(uploads.cancel(session, caller.tenant_id, upload_id))


def _store(edge: Edge, caller: Caller, part: Part, *, upload_id: str, most: int) -> UploadPartOut:
    with inside("data"):
        blob = edge.store.put_stream(caller.tenant_id, part.chunks(), limit=most)
    with edge.database.transaction() as session:
        row = uploads.add_part(session, caller.tenant_id, upload_id, blob=blob)
    return UploadPartOut.of(row, upload_id=upload_id)
