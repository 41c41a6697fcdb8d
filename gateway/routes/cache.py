"""`/v1/cache`: what the response cache did for a tenant, and how to empty it."""

from typing import Annotated

from fastapi import APIRouter, Query

from gateway.deps import CallerDep, EdgeDep
from gateway.routing import Route, needs
from gateway.schemas.cache import CacheOut, CachePurged
from services.accounts.service import Scope
from services.catalog import service as catalog
from services.responses import service
from services.responses.service import Limits

router = APIRouter(prefix="/v1/cache", tags=["inference"], route_class=Route)

Model = Annotated[str | None, Query(min_length=1, max_length=256, description="purge this model's answers alone")]


@router.get("", openapi_extra=needs(Scope.USAGE_READ))
def get_cache(edge: EdgeDep, caller: CallerDep) -> CacheOut:
    """Hits, misses and sizes of the response cache, for your calls and lines."""
    return CacheOut.of(service.figures(edge.cache, caller.tenant_id), Limits.of(edge.settings))


@router.delete("", openapi_extra=needs(Scope.MODELS_WRITE))
def purge_cache(edge: EdgeDep, caller: CallerDep, model: Model = None) -> CachePurged:
    """Forget your stored answers, of all models or of one; answers that are under way now are not kept either.

    Purging a base model forgets its adapters' answers too.
    """
    digest = None
    if model is not None:
        with edge.database.transaction() as session:
            digest = catalog.get(session, caller.tenant_id, model, param="model").digest
    service.purge(edge.cache, caller.tenant_id, digest=digest)
    return CachePurged(model=model)
