"""The answer of a call: one body, a stream, or what the response cache holds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import orjson
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.calls.asking import Ask, Endpoint, read
from gateway.calls.call import Call
from gateway.calls.calls import MOST, Calls
from gateway.calls.errors import EngineLost, TooManyCalls
from gateway.calls.events import Events, only_opens, quoted, usage_of
from gateway.errors import problem
from gateway.routing import caller_of, expect_json
from gateway.streams import PING, PING_S
from services.jobs.types import Outcome
from services.responses import streams
from services.responses.flights import Found
from shared.clock import monotonic
from shared.contracts.jobs import JobError
from shared.engine_client import Answer, EngineGone
from shared.errors import ModelyardError

JSON: Final = "application/json"
EVENT_STREAM: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


async def answer(request: Request, endpoint: Endpoint) -> Response:
    """Answer a request to one of OpenAI's routes.

    Raises:
        ModelyardError: before anything of an answer was sent; its status and code are the answer.
        ClientDisconnect: nobody waits for an answer any more.
    """
    began = monotonic()
    expect_json(request)
    calls: Calls = request.app.state.calls
    if len(calls.running) >= MOST:
        raise TooManyCalls
    given = await read(await request.body(), endpoint)
    tenant_id = caller_of(request).tenant_id
    ask = Ask.of(tenant_id, endpoint, given, await calls.model(tenant_id, given.body.model))
    found = await calls.edge.responses.find(ask.key, given.wish, wait_s=calls.edge.settings.place_wait_s)
    if found.stored is not None:
        return _stored(ask, found)
    call = Call(calls, ask, found, began=began)
    if ask.stream:
        return await _stream(call, request)
    with call.stoppable():
        async with _watched(call, request.receive):
            return await _whole(call)


def _stored(ask: Ask, found: Found) -> Response:
    """An answer that was given before: no engine, no row."""
    assert found.stored is not None
    headers = {"x-cache": found.verdict.value}
    if not ask.stream:
        return Response(streams.whole(found.stored, model=ask.name), headers=headers, media_type=JSON)
    events = streams.replayed(found.stored, model=ask.name, include_usage=ask.include_usage)
    return Response(b"".join(events), headers=EVENT_STREAM | headers)


async def _whole(call: Call) -> Response:
    body = await call.ask_engine(Answer.whole)
    await call.committed()
    call.usage = usage_of(body)
    call.found.keep(body)
    call.finish(Outcome.SUCCEEDED)
    named = body.replace(quoted(call.ask.model.served_as), quoted(call.ask.name))
    return Response(named, headers=_headers(call), media_type=JSON)


async def _stream(call: Call, request: Request) -> Response:
    """Answers when the first token is there and the row is written; until then errors have a status of their own."""
    opened = _Opened(call)
    with call.stoppable():
        async with _watched(call, request.receive):
            await call.ask_engine(opened.take)
            await call.committed()
    return _Stream(call, opened, request)


class _Opened:
    """A stream up to its first token. Begun again when the engine dies before."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.answer: Answer
        self.events: Events
        self.first = b""

    async def take(self, answer: Answer) -> None:
        """Read until something is to be passed on. Raises EngineGone."""
        ask = self.call.ask
        self.answer, self.first = answer, b""
        self.events = self.call.events = Events(
            served_as=ask.model.served_as, name=ask.name, include_usage=ask.include_usage, keep=ask.key is not None
        )
        while not answer.ended and only_opens(self.first):
            self.first += self.events.feed(await answer.read())
        if self.events.error is not None or (answer.ended and not self.events.done):
            raise EngineGone("the engine failed before the first token")
        self.call.token()
        self.call.hold()


class _Stream(Response):
    """Passes a stream on: what one read of the engine's socket brought is one message to the caller."""

    def __init__(self, call: Call, opened: _Opened, request: Request) -> None:
        super().__init__(headers=EVENT_STREAM | _headers(call))
        del self.headers["content-length"]
        self._call = call
        self._answer, self._events = opened.answer, opened.events
        self._first = opened.first
        self._request = request
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        call, answer = self._call, self._answer
        last = b""
        try:
            with call.stoppable(), _pinged(self):
                async with _watched(call, receive):
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    last = await self._pass(send)
                    self._finish()
        except ClientDisconnect:
            return
        except ModelyardError as error:
            last = self._broken(error)
        finally:
            answer.close()
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _pass(self, send: Send) -> bytes:
        """Send all but the last bytes, which are returned. Raises EngineLost."""
        answer, feed = self._answer, self._events.feed
        data = self._first
        try:
            while not answer.ended:
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                    self._sent_at = monotonic()
                elif monotonic() - self._sent_at >= PING_S:
                    data = PING
                    continue
                data = feed(await answer.read())
        except EngineGone as error:
            raise EngineLost("The engine died while it answered.") from error
        return data

    def _finish(self) -> None:
        events, call = self._events, self._call
        if events.done:
            if events.raw is not None:
                call.found.keep_stream(b"".join(events.raw))
            call.finish(Outcome.SUCCEEDED)
        elif events.error is not None:
            call.finish(Outcome.FAILED, JobError(code="engine_error", title="The engine failed while it answered"))
        else:
            raise EngineLost("The engine broke off its answer.")

    def _broken(self, error: ModelyardError) -> bytes:
        """How a stream fails that has begun: OpenAI's clients raise on it."""
        path, request_id = self._request.url.path, self._request.state.request_id
        told = problem(error, path=path, request_id=request_id)["error"]
        return b"data: " + orjson.dumps({"error": told}) + b"\n\n"

    def nudge_if_idle(self) -> None:
        """Wake the stream when it has been silent for long: it says so."""
        if monotonic() - self._sent_at >= PING_S:
            self._answer.nudge()


def _headers(call: Call) -> dict[str, str]:
    return {"x-job-id": str(call.id), "x-cache": call.found.verdict.value}


@contextlib.contextmanager
def _pinged(stream: _Stream) -> Iterator[None]:
    """Look every few seconds whether the stream has been silent for long."""
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def look() -> None:
        stream.nudge_if_idle()
        timers[:] = [loop.call_later(PING_S / 3, look)]

    timers.append(loop.call_later(PING_S, look))
    try:
        yield
    finally:
        timers[0].cancel()


@asynccontextmanager
async def _watched(call: Call, receive: Receive) -> AsyncIterator[None]:
    """Stop the call as soon as its client hangs up."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        call.gone()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
