"""`/v1/completions`: OpenAI's completions, placed on an engine and streamed straight from it."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.calls import describing
from gateway.calls.answering import answer
from gateway.calls.asking import COMPLETIONS
from gateway.routing import Route, needs
from services.accounts.service import Scope

router = APIRouter(tags=["inference"], route_class=Route)


@router.post(
    COMPLETIONS.path, responses=describing.ANSWERS, openapi_extra=needs(Scope.INFERENCE, **describing.COMPLETION)
)
async def completions(request: Request) -> Response:
    """Go on with one prompt or several, as text or as tokens. With `stream`, as server-sent events."""
    return await answer(request, COMPLETIONS)
