"""The engine's HTTP on its Unix socket: OpenAI's routes, health, figures, and the lifeline."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.contracts.engine import Detach, EngineState
from workers.engine.answers import DONE, Answer, ChatAnswer, CompletionAnswer, error_event
from workers.engine.errors import EngineError, InvalidRequest, ModelNotFound, Unauthorized
from workers.engine.generation import FinishReason, Flight, Generator, Wishes
from workers.engine.log import log
from workers.engine.requests import Body, ChatBody, CompletionBody, GenerateBody, parse, parse_generation
from workers.engine.state import Engine

T = TypeVar("T")

_COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions; a chat without a figure may fill the context
_GONE = 499  # nginx's status for a client that left; nobody receives it


def create_app(engine: Engine) -> Starlette:
    """The application of one engine."""
    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/stats", stats),
            Route("/v1/models", models),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/lifeline", lifeline),
            Route("/detach", detach, methods=["POST"]),
        ],
        middleware=[Middleware(_Token, token=engine.config.token)],
        exception_handlers={EngineError: _engine_error, HTTPException: _http_error},
    )
    app.state.engine = engine
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
    return _json({"object": "list", "data": [{"id": name, **about} for name in engine.config.models]})


async def completions(request: Request) -> Response:
    """`/v1/completions`."""
    generator, body = await _admissible(request, CompletionBody)
    prompts = [generator.model.tokenizer.encode(prompt) for prompt in body.prompts]
    flight = generator.admit(prompts, _wishes(body, body.max_tokens or _COMPLETION_TOKENS), param="prompt")
    return await _answer(request, flight, CompletionAnswer(body.model), body)


async def chat_completions(request: Request) -> Response:
    """`/v1/chat/completions`."""
    generator, body = await _admissible(request, ChatBody)
    prompt = generator.model.tokenizer.encode_chat(body.messages)
    flight = generator.admit([prompt], _wishes(body, body.limit), param="messages")
    return await _answer(request, flight, ChatAnswer(body.model), body)


async def detach(request: Request) -> Response:
    """Let the engine live without a lifeline for a while."""
    engine = _engine(request)
    grace_s = parse(await request.body() or b"{}", Detach).grace_s or engine.config.detach_grace_s
    engine.lifelines.detach(grace_s)
    log("detached", grace_s=grace_s)
    return _json({"grace_s": grace_s})


async def lifeline(request: Request) -> Response:
    """Held open by a worker for as long as it answers for this engine."""
    return _Lifeline(_engine(request))


async def _admissible(request: Request, kind: type[Body]) -> tuple[Generator, Body]:
    """Who generates, and the body. Raises EngineError."""
    engine = _engine(request)
    generator = engine.generator
    body = parse_generation(await request.body(), kind)
    if body.model not in engine.config.models:
        raise ModelNotFound(f"This engine does not serve `{body.model}`.", param="model")
    return generator, body


def _wishes(body: GenerateBody, max_tokens: int | None) -> Wishes:
    return Wishes(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        seed=body.seed,
        stops=body.stops,
        ignore_eos=body.ignore_eos,
        stream=body.stream,
    )


async def _answer(request: Request, flight: Flight, answer: Answer, body: GenerateBody) -> Response:
    if body.stream:
        return _Stream(_events(flight, answer, with_usage=body.stream_options.include_usage), flight)
    try:
        whole = await _unless_gone(request.receive, _collect(flight, answer))
    finally:
        flight.close()
    return Response(whole or b"", status_code=200 if whole else _GONE, media_type="application/json")


async def _collect(flight: Flight, answer: Answer) -> bytes:
    texts = [""] * flight.size
    reasons: list[FinishReason] = ["length"] * flight.size
    async for pieces in flight.pieces():
        for piece in pieces:
            texts[piece.index] += piece.text
            reasons[piece.index] = piece.finish_reason or reasons[piece.index]
    return answer.whole(texts, reasons, flight)


async def _events(flight: Flight, answer: Answer, *, with_usage: bool) -> AsyncIterator[bytes]:
    if opening := answer.opening(with_usage=with_usage):
        yield opening
    try:
        async for pieces in flight.pieces():
            if pieces:
                yield answer.chunks(pieces, with_usage=with_usage)
    except EngineError as error:
        yield error_event(error)
        return
    yield (answer.last(flight) if with_usage else b"") + DONE


class _Stream(StreamingResponse):
    """Server-sent events that close their flight however they end: finished, failed, or the client gone."""

    def __init__(self, events: AsyncIterator[bytes], flight: Flight) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._flight = flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._flight.close()


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


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` answers, or None as soon as the client has left; then `work` is cancelled."""
    answer, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await answer if answer.done() else None
    finally:
        for task in (answer, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, EngineError):
                await task


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(content: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status_code=status, headers=headers, media_type="application/json")


def _engine_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return _json(error.body(), status=error.status, headers=error.headers())


def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in OpenAI's form."""
    assert isinstance(error, HTTPException)
    body = InvalidRequest(f"{request.method} {request.url.path}: {error.detail}.").body()
    return _json(body, status=error.status_code)


class _Token:
    """Asks for the bearer token on every call but `/health`."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/health" or self._allows(dict(scope["headers"])):
            await self._app(scope, receive, send)
        else:
            await _engine_error(Request(scope), Unauthorized())(scope, receive, send)

    def _allows(self, headers: dict[bytes, bytes]) -> bool:
        return self._expected is None or hmac.compare_digest(headers.get(b"authorization", b""), self._expected)
