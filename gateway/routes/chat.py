"""`/v1/chat/completions`: OpenAI's chat, placed on an engine and streamed straight from it."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.calls import describing
from gateway.calls.answering import answer
from gateway.calls.asking import CHAT
from gateway.routing import Route, needs
from services.accounts.service import Scope

router = APIRouter(tags=["inference"], route_class=Route)


@router.post(CHAT.path, responses=describing.ANSWERS, openapi_extra=needs(Scope.INFERENCE, **describing.CHAT))
async def chat_completions(request: Request) -> Response:
    """Answer a chat. With `stream`, tokens come as server-sent events; hanging up stops the engine's work."""
    return await answer(request, CHAT)
