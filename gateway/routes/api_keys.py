"""`/v1/api_keys`: a tenant's keys."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query

from gateway import openapi
from gateway.deps import PAGE, CallerDep, Limit, SessionDep
from gateway.routing import Route, needs
from gateway.schemas.api_keys import ApiKeyOut, ApiKeyRequest
from gateway.schemas.common import Page
from services.accounts import service
from services.accounts.service import Scope
from shared.errors import InvalidCursor, NotFound

router = APIRouter(prefix="/v1/api_keys", tags=["api_keys"], route_class=Route)

KeyId = Annotated[UUID, Path(description="id of a key")]


@router.post("", status_code=201, openapi_extra=needs(Scope.KEYS, **openapi.KEY_REQUEST))
def create_api_key(request: ApiKeyRequest, session: SessionDep, caller: CallerDep) -> ApiKeyOut:
    """Make a key. Its text is in this answer, and nobody can show it again."""
    made = service.create_key(session, caller, name=request.name, scopes=request.scopes, expires_at=request.expires_at)
    return ApiKeyOut.of(made.key, token=made.token)


@router.get("", openapi_extra=needs(Scope.KEYS))
def list_api_keys(
    session: SessionDep,
    caller: CallerDep,
    *,
    limit: Limit = PAGE,
    after: Annotated[str | None, Query(description="id of the key before the page")] = None,
) -> Page[ApiKeyOut]:
    """The tenant's keys, newest first, revoked ones included."""
    limit = min(limit, PAGE)
    rows = service.list_keys(session, caller.tenant_id, after=_cursor(session, caller, after), limit=limit + 1)
    return Page[ApiKeyOut].of(rows, limit=limit, shown=ApiKeyOut.of)


@router.get("/{id}", openapi_extra=needs(Scope.KEYS))
def get_api_key(id: KeyId, session: SessionDep, caller: CallerDep) -> ApiKeyOut:
    """One key."""
    return ApiKeyOut.of(service.get_key(session, caller.tenant_id, id))


@router.delete("/{id}", openapi_extra=needs(Scope.KEYS))
def revoke_api_key(id: KeyId, session: SessionDep, caller: CallerDep) -> ApiKeyOut:
    """Revoke a key: at once in this process, within 30 s in others."""
    return ApiKeyOut.of(service.revoke_key(session, caller.tenant_id, id))


def _cursor(session: SessionDep, caller: CallerDep, after: str | None) -> UUID | None:
    try:
        return None if after is None else service.get_key(session, caller.tenant_id, UUID(after)).id
    except (ValueError, NotFound) as error:
        raise InvalidCursor(param="after") from error
