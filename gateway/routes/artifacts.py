"""`/v1/artifacts`: results, and their bytes."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from gateway import openapi
from gateway.content import Download, send
from gateway.deps import CallerDep, EdgeDep, SessionDep
from gateway.routing import Route, needs
from gateway.schemas.artifacts import ArtifactOut
from services.accounts.service import Scope
from services.artifacts import service

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"], route_class=Route)

ArtifactId = Annotated[UUID, Path(description="id of an artifact")]


@router.get("/{artifact_id}", openapi_extra=needs(Scope.JOBS_READ))
def get_artifact(artifact_id: ArtifactId, session: SessionDep, caller: CallerDep) -> ArtifactOut:
    """One artifact."""
    return ArtifactOut.of(service.get(session, caller.tenant_id, artifact_id))


@router.head("/{artifact_id}/content", include_in_schema=False, openapi_extra=needs(Scope.JOBS_READ))
@router.get(
    "/{artifact_id}/content",
    response_class=Response,
    responses=openapi.CONTENT,
    openapi_extra=needs(Scope.JOBS_READ),
)
def get_artifact_content(
    request: Request,
    artifact_id: ArtifactId,
    *,
    edge: EdgeDep,
    caller: CallerDep,
    path: Annotated[str | None, Query(description="a file of an artifact that is a folder")] = None,
) -> Response:
    """The bytes, whole or the range asked for."""
    with edge.database.transaction() as session:
        artifact = service.get(session, caller.tenant_id, artifact_id)
    blob = service.blob_of(artifact, path)
    return send(
        request,
        Download(
            blob.sha256,
            blob.bytes,
            filename=artifact.name if path is None else path.rpartition("/")[2],
            media_type=artifact.media_type if path is None else "application/octet-stream",
            open=lambda part: service.content(edge.store, artifact, wanted=part, path=path),
        ),
    )
