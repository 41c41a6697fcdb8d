"""The engine's HTTP on its Unix socket: OpenAI's routes, health, figures, and the lifeline."""

from collections.abc import AsyncIterator
from typing import TypeVar

import orjson
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from shared.contracts.engine import Detach, EngineState, LoadAdapter, UnloadAdapter
from shared.contracts.openai import BadRequest, ChatBody, CompletionBody, EmbeddingBody, parse, read
from workers.engine import calls
from workers.engine.adapters import Adapters
from workers.engine.embeddings import answer as embedding_answer
from workers.engine.errors import EngineError, InvalidRequest, Unauthorized, refused
from workers.engine.listening import Token
from workers.engine.log import log
from workers.engine.replies import reply, unless_gone
from workers.engine.state import Engine
from workers.engine.templates import Renderer

Parsed = TypeVar("Parsed", bound=BaseModel)


def create_app(engine: Engine) -> Starlette:
    """The application of one engine."""
    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/stats", stats),
            Route("/v1/models", models),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/load_lora_adapter", load_lora_adapter, methods=["POST"]),
            Route("/v1/unload_lora_adapter", unload_lora_adapter, methods=["POST"]),
            Route("/lifeline", lifeline),
            Route("/detach", detach, methods=["POST"]),
        ],
        middleware=[Middleware(Token, token=engine.config.token, refusal=_unauthorized)],
        exception_handlers={EngineError: _engine_error, BadRequest: _bad_request, HTTPException: _http_error},
    )
    app.state.engine = engine
    app.state.adapters = Adapters(engine)
    app.state.renderer = Renderer()
    app.state.renderer.start()
    return app


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def health(request: Request) -> Response:
    """200 when requests are admitted."""
    state = _engine(request).state
    return _json({"status": state}, status=200 if state is EngineState.READY else 503)


async def stats(request: Request) -> Response:
    """EngineStats."""
    return Response(_engine(request).stats().model_dump_json(), media_type="application/json")


async def models(request: Request) -> Response:
    """OpenAI's list, one entry for each name served."""
    engine = _engine(request)
    about = {"object": "model", "created": int(engine.started_at), "owned_by": "modelyard"}
    about["context_length"] = engine.context_length
    return _json({"object": "list", "data": [{"id": name, **about} for name in engine.names]})


async def completions(request: Request) -> Response:
    """`/v1/completions`."""
    body = await _generation(request, CompletionBody)
    return await reply(request, await calls.of_completion(_engine(request), body), body)


async def chat_completions(request: Request) -> Response:
    """`/v1/chat/completions`."""
    body = await _generation(request, ChatBody)
    return await reply(request, await calls.of_chat(_engine(request), body, request.app.state.renderer), body)


async def embeddings(request: Request) -> Response:
    """`/v1/embeddings`."""
    engine = _engine(request)
    body = await _parsed(request, EmbeddingBody)
    embedder, model = engine.embedder(body.model)
    return await unless_gone(request.receive, embedding_answer(embedder, model, body))


async def load_lora_adapter(request: Request) -> Response:
    """`/v1/load_lora_adapter`, as vLLM has it."""
    asked = await _parsed(request, LoadAdapter)
    return PlainTextResponse(await request.app.state.adapters.load(asked))


async def unload_lora_adapter(request: Request) -> Response:
    """`/v1/unload_lora_adapter`, as vLLM has it."""
    asked = await _parsed(request, UnloadAdapter)
    return PlainTextResponse(await request.app.state.adapters.unload(asked))


async def detach(request: Request) -> Response:
    """Let the engine live without a lifeline for a while."""
    engine = _engine(request)
    grace_s = (await _parsed(request, Detach)).grace_s or engine.config.detach_grace_s
    engine.lifelines.detach(grace_s)
    log("detached", grace_s=grace_s)
    return _json({"grace_s": grace_s})


async def lifeline(request: Request) -> Response:
    """Held open by a worker for as long as it answers for this engine."""
    return _Lifeline(_engine(request))


async def _generation(request: Request, kind: type[Parsed]) -> Parsed:
    """The body, unless the engine is not ready: that is said first. Raises EngineError and BadRequest."""
    _engine(request).base  # noqa: B018
    return await _parsed(request, kind)


async def _parsed(request: Request, kind: type[Parsed]) -> Parsed:
    """The body; none at all is an empty one. Raises BadRequest."""
    return parse(read(await request.body() or b"{}"), kind)


class _Lifeline(StreamingResponse):
    """A response that only its client's death or our own end finishes."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(self._held(engine), media_type="text/event-stream")
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._engine.lifelines.hold():
            await super().__call__(scope, receive, send)

    @staticmethod
    async def _held(engine: Engine) -> AsyncIterator[bytes]:
        yield b": held\n\n"
        await engine.stopped.wait()


def _json(content: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status_code=status, headers=headers, media_type="application/json")


async def _unauthorized(scope: Scope, receive: Receive, send: Send) -> None:
    await _engine_error(Request(scope), Unauthorized())(scope, receive, send)


def _engine_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return _json(error.body(), status=error.status, headers=error.headers())


def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    return _engine_error(request, refused(error))


def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in OpenAI's form."""
    assert isinstance(error, HTTPException)
    body = InvalidRequest(f"{request.method} {request.url.path}: {error.detail}.").body()
    return _json(body, status=error.status_code)
