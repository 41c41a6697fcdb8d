"""`/v1/gpu_classes`: the class table of this deployment."""

from collections import Counter

from fastapi import APIRouter

from gateway.deps import CallerDep, SessionDep
from gateway.routing import Route, needs
from gateway.schemas.common import Page
from gateway.schemas.workers import GpuClassOut
from services.accounts.service import Scope
from services.workers import service
from shared.queues import gpu_classes

router = APIRouter(prefix="/v1/gpu_classes", tags=["yard"], route_class=Route)


@router.get("", openapi_extra=needs(Scope.JOBS_READ))
def list_gpu_classes(session: SessionDep, caller: CallerDep) -> Page[GpuClassOut]:
    """Every class that a job may name as its `gpu_class`, with the number of its live workers."""
    del caller
    live = Counter(worker.gpu_class for worker in service.workers(session) if worker.live)
    table = list(gpu_classes().values())
    return Page[GpuClassOut].of(
        table, limit=len(table), shown=lambda each: GpuClassOut.of(each, live_workers=live[each.name])
    )
