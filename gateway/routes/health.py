"""`/health`: the only calls that need no key. They tell names and milliseconds, nothing of anybody's."""

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.readiness import Ready
from gateway.schemas.common import Out

router = APIRouter(prefix="/health", tags=["health"])


class Live(Out):
    """The process answers."""

    status: Literal["live"] = "live"


@router.get("/live")
async def live() -> Live:
    """Whether this process answers at all: restart it when it does not."""
    return Live()


@router.get("/ready", response_model=Ready, responses={503: {"model": Ready, "description": "not ready; see `checks`"}})
async def ready(request: Request) -> Response:
    """Whether this gateway can do its work, and what it stands on."""
    seen: Ready = await request.app.state.readiness.look()
    return Response(seen.json_bytes(), 200 if seen.ready else 503, media_type="application/json")
