"""`/v1/workers`: who runs, on what, with which models loaded."""

from fastapi import APIRouter

from gateway.deps import CallerDep, SessionDep
from gateway.routing import Route, needs
from gateway.schemas.common import Page
from gateway.schemas.workers import WorkerOut
from services.accounts.service import Scope
from services.workers import service

router = APIRouter(prefix="/v1/workers", tags=["yard"], route_class=Route)


@router.get("", openapi_extra=needs(Scope.JOBS_READ))
def list_workers(session: SessionDep, caller: CallerDep) -> Page[WorkerOut]:
    """Workers that run or stopped within the hour, running ones first. They are the yard's: every key sees them."""
    del caller
    seen = service.workers(session)
    return Page[WorkerOut].of(seen, limit=len(seen), shown=WorkerOut.of)
