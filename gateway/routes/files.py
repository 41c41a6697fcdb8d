"""`/v1/files`: uploads, as OpenAI's clients make them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from gateway import openapi
from gateway.content import Download, send
from gateway.deps import CallerDep, EdgeDep, SessionDep
from gateway.edge import Edge
from gateway.routing import Route, needs
from gateway.schemas.common import Page
from gateway.schemas.files import FileDeleted, FileOut
from gateway.uploads import Upload, receive
from services.accounts.service import Caller, Scope
from services.files import service
from services.files.service import Purpose
from shared.errors import InvalidCursor, NotFound

MOST = 10_000  #: longest page, and the one that OpenAI's clients expect

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=Route)

FileId = Annotated[str, Path(description="id of a file, `file-…`")]


@router.post("", openapi_extra=needs(Scope.FILES_WRITE, **openapi.UPLOAD_REQUEST))
async def create_file(request: Request, edge: EdgeDep, caller: CallerDep) -> FileOut:
    """Upload a file of at most 512 MiB (200 MiB for a batch)."""
    form = await receive(request)
    try:
        return await run_in_threadpool(_store, edge, caller, Upload.of(form))
    finally:
        await form.close()


@router.get("", openapi_extra=needs(Scope.FILES_READ))
def list_files(
    session: SessionDep,
    caller: CallerDep,
    *,
    limit: Annotated[int, Query(ge=1, description="rows of a page; at most 10000")] = MOST,
    after: Annotated[str | None, Query(description="id of the file before the page")] = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: Purpose | None = None,
) -> Page[FileOut]:
    """Files, newest first unless told otherwise."""
    limit = min(limit, MOST)
    try:
        rows = service.page(
            session,
            caller.tenant_id,
            purpose=purpose,
            after=after,
            limit=limit + 1,
            oldest_first=order == "asc",
        )
    except NotFound as error:
        raise InvalidCursor(param="after") from error
    return Page[FileOut].of(rows, limit=limit, shown=FileOut.of)


@router.get("/{file_id}", openapi_extra=needs(Scope.FILES_READ))
def get_file(file_id: FileId, session: SessionDep, caller: CallerDep) -> FileOut:
    """One file."""
    return FileOut.of(service.get(session, caller.tenant_id, file_id))


@router.delete("/{file_id}", openapi_extra=needs(Scope.FILES_WRITE))
def delete_file(file_id: FileId, session: SessionDep, caller: CallerDep) -> FileDeleted:
    """Forget a file. Jobs that have read it keep what they read."""
    service.delete(session, caller.tenant_id, file_id)
    return FileDeleted(id=file_id)


@router.head("/{file_id}/content", include_in_schema=False, openapi_extra=needs(Scope.FILES_READ))
@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses=openapi.CONTENT,
    openapi_extra=needs(Scope.FILES_READ),
)
def get_file_content(request: Request, file_id: FileId, edge: EdgeDep, caller: CallerDep) -> Response:
    """The bytes, whole or the range asked for."""
    with edge.database.transaction() as session:
        file = service.get(session, caller.tenant_id, file_id)
    return send(
        request,
        Download(
            file.sha256,
            file.bytes,
            filename=file.filename,
            media_type="application/octet-stream",
            open=lambda part: service.content(edge.store, file, wanted=part),
        ),
    )


def _store(edge: Edge, caller: Caller, upload: Upload) -> FileOut:
    with edge.database.transaction() as session:
        return FileOut.of(
            service.create(
                session,
                edge.store,
                caller.tenant_id,
                filename=upload.filename,
                purpose=upload.purpose,
                chunks=upload.chunks(),
                expires_in_s=upload.expires_in_s,
            )
        )
