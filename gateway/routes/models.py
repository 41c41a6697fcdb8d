"""`/v1/models`: what `model` may name."""

from typing import Annotated

from fastapi import APIRouter, Path

from gateway.deps import CallerDep, SessionDep
from gateway.routing import Route, needs
from gateway.schemas.models import ModelList, ModelOut
from services.accounts.service import Scope
from services.catalog import service
from shared.contracts.jobs import Text

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=Route)


@router.get("", openapi_extra=needs(Scope.MODELS_READ))
def list_models(session: SessionDep, caller: CallerDep) -> ModelList:
    """The newest version of each model, by name."""
    rows = service.page(session, caller.tenant_id)
    return ModelList(data=[ModelOut.of(row, owned_by=caller.tenant) for row in rows])


@router.get("/{model:path}", openapi_extra=needs(Scope.MODELS_READ))
def get_model(
    model: Annotated[Text, Path(description="a model's name; a slash may come encoded")],
    session: SessionDep,
    caller: CallerDep,
) -> ModelOut:
    """One model."""
    row = service.get(session, caller.tenant_id, model, param="model")
    return ModelOut.of(row, owned_by=caller.tenant)
