"""`/v1/models` and `/v1/model_aliases`: what `model` may name, where it came from, how it is served."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from gateway import openapi
from gateway.deps import CallerDep, SessionDep
from gateway.edge import edge_of
from gateway.routes import jobs
from gateway.routing import Route, caller_of, needs
from gateway.schemas.jobs import DraftOut, JobOut
from gateway.schemas.models import (
    AliasDeleted,
    AliasList,
    AliasOut,
    AliasRequest,
    ModelChange,
    ModelDeleted,
    ModelDetail,
    ModelList,
    ModelOut,
    versioned,
)
from gateway.submission import ACCEPTED
from services.accounts.service import Caller, Scope
from services.catalog import aliases, service
from services.imports.service import examine
from services.inference.models import facts
from shared.contracts.imports import ImportSpec
from shared.contracts.jobs import JobRequest, Text
from shared.db.models import Model
from shared.errors import outside

router = APIRouter(prefix="/v1", tags=["models"], route_class=Route)

ModelName = Annotated[
    Text, Path(description="a name, an alias, `name@version` or a version's id; a slash may come encoded")
]
AliasName = Annotated[Text, Path(description="an alias; a slash may come encoded")]


@router.get("/models", openapi_extra=needs(Scope.MODELS_READ))
def list_models(session: SessionDep, caller: CallerDep) -> ModelList:
    """The newest version of each model, by name."""
    return _list(session, caller, service.page(session, caller.tenant_id))


@router.post(
    "/models",
    status_code=ACCEPTED,
    response_model=JobOut,
    responses={200: {"model": DraftOut, "description": "with `validate_only`: the plan; nothing was written"}},
    openapi_extra=needs(Scope.MODELS_WRITE, **openapi.REGISTER),
)
async def register_model(request: Request, wish: ImportSpec) -> Response:
    """Register a version of a model: a job of kind `import_model`, whose end is the version.

    Files that this host can see are looked at first: what would never be registered is 422 at once.
    """
    edge, caller = edge_of(request), caller_of(request)
    with outside("spec"):
        await edge.run(
            lambda: examine(
                wish, database=edge.database, store=edge.store, settings=edge.settings, tenant_id=caller.tenant_id
            )
        )
        spec = wish.model_dump(mode="json", exclude_unset=True)
        return await jobs.submit_job(request, JobRequest(kind="import_model", spec=spec))


@router.get("/models/{model:path}/versions", openapi_extra=needs(Scope.MODELS_READ))
def list_model_versions(model: ModelName, session: SessionDep, caller: CallerDep) -> ModelList:
    """All versions of a model, newest first."""
    return _list(session, caller, service.versions(session, caller.tenant_id, model), versions=True)


@router.get("/models/{model:path}", openapi_extra=needs(Scope.MODELS_READ))
def get_model(model: ModelName, session: SessionDep, caller: CallerDep) -> ModelDetail:
    """One model: what it takes, where it fits, how it is served."""
    return _detail(session, caller, service.get(session, caller.tenant_id, model, param="model"), name=model)


@router.patch("/models/{model:path}", openapi_extra=needs(Scope.MODELS_WRITE, **openapi.CHANGE_MODEL))
def change_model(model: ModelName, change: ModelChange, session: SessionDep, caller: CallerDep) -> ModelDetail:
    """Change how a version is served, or give it an alias. Engines that run already keep their options."""
    row = service.get(session, caller.tenant_id, model, param="model")
    if change.serving is not None:
        figures = facts(row, service.base_of(session, row))
        service.serve(
            session, row, change.serving.model_dump(mode="json", exclude_unset=True), kv_heads=figures.kv_heads
        )
    if change.alias is not None:
        aliases.point(session, caller.tenant_id, change.alias, row)
    return _detail(session, caller, row, name=model)


@router.delete("/models/{model:path}", openapi_extra=needs(Scope.MODELS_WRITE))
def delete_model(model: ModelName, session: SessionDep, caller: CallerDep) -> ModelDeleted:
    """Delete a model with all its versions, or one version. Refused while anything needs it."""
    service.delete(session, caller.tenant_id, model)
    return ModelDeleted(id=model)


@router.get("/model_aliases", openapi_extra=needs(Scope.MODELS_READ))
def list_model_aliases(session: SessionDep, caller: CallerDep) -> AliasList:
    """All aliases, by name."""
    return AliasList(data=[AliasOut.of(alias, row) for alias, row in aliases.page(session, caller.tenant_id)])


@router.put("/model_aliases/{alias:path}", openapi_extra=needs(Scope.MODELS_WRITE, **openapi.POINT_ALIAS))
def put_model_alias(alias: AliasName, wish: AliasRequest, session: SessionDep, caller: CallerDep) -> AliasOut:
    """Let an alias stand for a version: from one moment to the next, for every caller."""
    row = service.get(session, caller.tenant_id, wish.model, param="model")
    aliases.point(session, caller.tenant_id, alias, row)
    return AliasOut.of(alias, row)


@router.delete("/model_aliases/{alias:path}", openapi_extra=needs(Scope.MODELS_WRITE))
def delete_model_alias(alias: AliasName, session: SessionDep, caller: CallerDep) -> AliasDeleted:
    """Forget an alias; its model stays."""
    aliases.unpoint(session, caller.tenant_id, alias)
    return AliasDeleted(id=alias)


def _list(session: Session, caller: Caller, rows: Sequence[Model], *, versions: bool = False) -> ModelList:
    known = service.shown(session, rows)
    return ModelList(
        data=[ModelOut.of(each, owned_by=caller.tenant, id=versioned(each.row) if versions else None) for each in known]
    )


def _detail(session: Session, caller: Caller, row: Model, *, name: str) -> ModelDetail:
    (known,) = service.shown(session, [row])
    return ModelDetail.of(known, owned_by=caller.tenant, id=name if name == row.name else versioned(row))
