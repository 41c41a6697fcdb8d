"""The control protocol of an engine, for a server that does not speak it."""

from collections.abc import AsyncIterator

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from shared.contracts.engine import Detach
from workers.engine.guard.state import Guarded
from workers.engine.listening import Token
from workers.engine.log import log


def create_app(guarded: Guarded) -> Starlette:
    """The application of one guard."""
    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/stats", stats),
            Route("/lifeline", lifeline),
            Route("/detach", detach, methods=["POST"]),
        ],
        middleware=[Middleware(Token, token=guarded.config.token, refusal=_unauthorized)],
    )
    app.state.guarded = guarded
    return app


def _guarded(request: Request) -> Guarded:
    guarded: Guarded = request.app.state.guarded
    return guarded


async def health(request: Request) -> Response:
    """200 when requests are admitted."""
    guarded = _guarded(request)
    admits = await guarded.admits()
    return JSONResponse({"status": guarded.state if admits else "unavailable"}, 200 if admits else 503)


async def stats(request: Request) -> Response:
    """EngineStats."""
    return Response((await _guarded(request).stats()).model_dump_json(), media_type="application/json")


async def detach(request: Request) -> Response:
    """Let the server live without a lifeline for a while."""
    guarded = _guarded(request)
    try:
        asked = Detach.model_validate_json(await request.body() or b"{}")
    except ValidationError as error:
        message = error.errors(include_url=False, include_input=False)[0]["msg"]
        return _refusal(400, message, kind="invalid_request_error")
    grace_s = asked.grace_s or guarded.config.detach_grace_s
    guarded.lifelines.detach(grace_s)
    log("detached", grace_s=grace_s)
    return JSONResponse({"grace_s": grace_s})


async def lifeline(request: Request) -> Response:
    """Held open by a worker for as long as it answers for this engine."""
    return _Lifeline(_guarded(request))


class _Lifeline(StreamingResponse):
    """A response that only its client's death or our own end finishes."""

    def __init__(self, guarded: Guarded) -> None:
        super().__init__(self._held(guarded), media_type="text/event-stream")
        self._lifelines = guarded.lifelines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._lifelines.hold():
            await super().__call__(scope, receive, send)

    @staticmethod
    async def _held(guarded: Guarded) -> AsyncIterator[bytes]:
        yield b": held\n\n"
        await guarded.stopped.wait()


async def _unauthorized(scope: Scope, receive: Receive, send: Send) -> None:
    refusal = _refusal(401, "This engine asks for a bearer token.", kind="authentication_error")
    await refusal(scope, receive, send)


def _refusal(status: int, message: str, *, kind: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": None}}, status)
