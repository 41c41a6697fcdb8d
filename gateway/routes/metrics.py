"""`/metrics`: figures for Prometheus, which sends a key of its own (scope `usage:read`)."""

from fastapi import APIRouter
from starlette.responses import Response

from gateway.deps import CallerDep, EdgeDep
from gateway.edge import Edge
from gateway.routing import Route, needs
from services.accounts.service import Caller, Scope
from services.metrics import service
from shared import telemetry
from shared.errors import Unavailable
from shared.metrics import DATABASE_UP

router = APIRouter(tags=["yard"], route_class=Route)


@router.get("/metrics", response_class=Response, openapi_extra=needs(Scope.USAGE_READ))
def metrics(edge: EdgeDep, caller: CallerDep) -> Response:
    """Figures of this process, of the yard's engines and queues, and the names of your models, as Prometheus' text."""
    yard = _yard(edge, caller)
    return Response(telemetry.exposition(*service.families(yard)), headers={"content-type": telemetry.EXPOSITION})


def _yard(edge: Edge, caller: Caller) -> service.Yard:
    """The yard; an empty one while the database is away, because the process's own figures matter most then."""
    try:
        with edge.database.transaction() as session:
            yard = service.yard(session, caller.tenant_id)
    except Unavailable:
        DATABASE_UP.set(0)
        return service.Yard()
    DATABASE_UP.set(1)
    return yard
