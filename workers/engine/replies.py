"""How a flight becomes a response: whole, or as server-sent events; and what happens when the client leaves."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.contracts.openai import GenerateBody
from workers.engine.answers import DONE, Answer, error_event
from workers.engine.calls import Call
from workers.engine.errors import EngineError
from workers.engine.flight import Flight, Piece

T = TypeVar("T")

_GONE = 499  # nginx's status for a client that left; nobody receives it


async def reply(request: Request, call: Call, body: GenerateBody) -> Response:
    """The response to a call: it is admitted, and ended however the request ends. Raises EngineError."""
    flight = call.admit()
    if body.stream:
        return _Stream(_events(flight, call.answer, with_usage=body.include_usage), flight)
    try:
        return await unless_gone(request.receive, _collect(flight, call.answer))
    finally:
        flight.close()


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, bytes]) -> Response:
    """The JSON that `work` answers; when the client leaves before, `work` is cancelled."""
    answer, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            return Response(status_code=_GONE)
        return Response(await answer, media_type="application/json")
    finally:
        for task in (answer, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, EngineError):
                await task


async def _collect(flight: Flight, answer: Answer) -> bytes:
    news: list[list[Piece]] = [[] for _ in range(flight.size)]
    async for pieces in flight.pieces():
        for piece in pieces:
            news[piece.index].append(piece)
    return answer.whole([_joined(pieces) for pieces in news], flight)


def _joined(pieces: list[Piece]) -> Piece:
    last = pieces[-1]
    text = "".join(piece.text for piece in pieces)
    return Piece(last.index, text, last.finish_reason, tuple(entry for piece in pieces for entry in piece.logprobs))


async def _events(flight: Flight, answer: Answer, *, with_usage: bool) -> AsyncIterator[bytes]:
    if opening := answer.opening(flight.size, with_usage=with_usage):
        yield opening
    try:
        async for pieces in flight.pieces():
            if news := answer.chunks(pieces, with_usage=with_usage):
                yield news
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


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
