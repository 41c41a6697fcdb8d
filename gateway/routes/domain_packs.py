"""`/v1/domain_packs`: what `pack` of a document set may name."""

from typing import Annotated

from fastapi import APIRouter, Path

from gateway.deps import CallerDep
from gateway.routing import Route, needs
from gateway.schemas.common import Page
from gateway.schemas.domain_packs import DomainPackDetail, DomainPackOut
from services.accounts.service import Scope
from services.documents import packs
from shared.contracts.jobs import Text
from shared.errors import InvalidField, NotFound

router = APIRouter(prefix="/v1/domain_packs", tags=["documents"], route_class=Route)


@router.get("", openapi_extra=needs(Scope.JOBS_READ))
def list_domain_packs(caller: CallerDep) -> Page[DomainPackOut]:
    """Every installed pack, by name."""
    del caller
    found = list(packs.installed().values())
    return Page[DomainPackOut].of(found, limit=len(found), shown=DomainPackOut.of)


@router.get("/{pack}", openapi_extra=needs(Scope.JOBS_READ))
def get_domain_pack(pack: Annotated[Text, Path(description="name of a pack")], caller: CallerDep) -> DomainPackDetail:
    """One pack, with its terms and rules."""
    del caller
    try:
        return DomainPackDetail.of(packs.named(pack))
    except InvalidField as error:
        raise NotFound("There is no such domain pack.", param="pack") from error
