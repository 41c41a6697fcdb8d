"""`/metrics`: figures of this process for Prometheus, which sends a key of its own (scope `usage:read`)."""

from fastapi import APIRouter
from starlette.responses import Response

from gateway.deps import CallerDep
from gateway.routing import Route, needs
from services.accounts.service import Scope
from shared import telemetry

router = APIRouter(tags=["yard"], route_class=Route)


@router.get("/metrics", response_class=Response, openapi_extra=needs(Scope.USAGE_READ))
def metrics(caller: CallerDep) -> Response:
    """Figures of this process in Prometheus' text format."""
    del caller
    return Response(telemetry.exposition(), headers={"content-type": telemetry.EXPOSITION})
