"""HTTP/1.1 to one engine, over its Unix socket or a private TCP address: connections are kept, closing one aborts it.

By hand, because every request and every token pays for it: 0.1 ms of CPU a request here, 0.9 ms through httpx
(bench/, 64 in flight), and a few µs for what one read of the socket brought.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import orjson

from shared.wire import Chunked, EngineAbsent, EngineGone, Sized, Wire

__all__ = ["Answer", "EngineAbsent", "EngineClient", "EngineGone", "Reply"]

HEAD_BYTES: Final = 64 * 1024
OPEN_S: Final = 5.0


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body, parsed.

        Raises:
            EngineGone: it is not JSON, so whoever answered is not an engine in its right mind.
        """
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise EngineGone("the engine's answer is not JSON") from error


class Answer:
    """An answer whose head has come. Read it to its end, or `close` it: that aborts the request."""

    def __init__(self, client: "EngineClient", wire: Wire, head: bytes, rest: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ", 2)[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.ended = False
        self._client = client
        self._wire = wire
        self._rest = rest
        chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        self._body: Chunked | Sized = Chunked() if chunked else Sized(int(self.headers.get("content-length", 0)))

    async def read(self) -> bytes:
        """More of the body, however much came at once; empty after its end, and after a `nudge`.

        Raises:
            EngineGone: the connection broke before the end.
        """
        if self.ended:
            return b""
        data, self._rest = self._rest or await self._wire.receive(), b""
        try:
            out = self._body.feed(data)
        except ValueError as error:
            self.close()
            raise EngineGone("the engine's answer is not HTTP") from error
        if self._body.done:
            self._end()
        return out

    async def whole(self) -> bytes:
        """The rest of the body. Raises EngineGone."""
        parts = []
        while not self.ended:
            parts.append(await self.read())
        return b"".join(parts)

    def nudge(self) -> None:
        """Make a `read` that waits return empty."""
        self._wire.nudge()

    def close(self) -> None:
        """Let go; an answer that has not ended is aborted."""
        if not self.ended:
            self.ended = True
            self._wire.abort()

    def start(self) -> Self:
        """Note the end of a body that is empty."""
        if self._body.done:
            self._end()
        return self

    def _end(self) -> None:
        self.ended = True
        self._client.put_back(self._wire, keep=self.headers.get("connection", "").lower() != "close")


class EngineClient:
    """Requests to one engine at `unix:/path`, a path, or `http://host:port`. Used on one loop."""

    def __init__(self, address: Path | str, *, token: str | None = None) -> None:
        self._address = str(address)
        self._bearer = f"Authorization: Bearer {token}\r\n" if token else ""
        self._idle: list[Wire] = []
        self._lifeline: Wire | None = None

    async def get(self, path: str) -> Reply:
        """`GET path`. Raises EngineGone."""
        return await self._reply(self._head("GET", path, 0))

    async def post(self, path: str, body: Any) -> Reply:
        """`POST path` with a JSON body. Cancelling closes the connection, and so aborts it. Raises EngineGone."""
        data = orjson.dumps(body)
        return await self._reply(self._head("POST", path, len(data)) + data)

    async def open(self, path: str, data: bytes) -> Answer:
        """`POST path` with JSON bytes; the answer as soon as its head is there. Raises EngineGone."""
        return await self._request(self._head("POST", path, len(data)) + data)

    async def lifeline(self) -> Wire:
        """Open `GET /lifeline` and leave it open: the engine lives while this client does. Raises EngineGone.

        When its `receive` raises EngineGone, the engine has closed it.
        """
        wire = await self._connect()
        wire.transport.write(self._head("GET", "/lifeline", 0))
        answer = await self._answer(wire)
        if answer.status != 200:
            wire.abort()
            raise EngineGone(f"the engine refused the lifeline with status {answer.status}")
        self._lifeline = wire
        return wire

    def close(self) -> None:
        """Close every connection that is kept, the lifeline included."""
        for wire in (*self._idle, *filter(None, [self._lifeline])):
            wire.abort()
        self._idle.clear()

    def put_back(self, wire: Wire, *, keep: bool) -> None:
        """Keep a connection whose answer has ended."""
        if keep and not wire.closed:
            self._idle.append(wire)
        else:
            wire.abort()

    def _head(self, method: str, path: str, length: int) -> bytes:
        body = f"Content-Type: application/json\r\nContent-Length: {length}\r\n" if method == "POST" else ""
        return f"{method} {path} HTTP/1.1\r\nHost: engine\r\n{self._bearer}{body}\r\n".encode()

    async def _reply(self, message: bytes) -> Reply:
        answer = await self._request(message)
        try:
            return Reply(answer.status, await answer.whole())
        finally:
            answer.close()

    async def _request(self, message: bytes) -> Answer:
        while self._idle:
            wire = self._idle.pop()
            if wire.closed:
                continue
            with suppress(_Stale):
                wire.transport.write(message)
                return await self._answer(wire, kept=True)
        wire = await self._connect()
        wire.transport.write(message)
        return await self._answer(wire)

    async def _connect(self) -> Wire:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(OPEN_S):
                if self._address.startswith("http://"):
                    where = urlsplit(self._address)
                    return (await loop.create_connection(Wire, where.hostname or "", where.port or 80))[1]
                return (await loop.create_unix_connection(Wire, self._address.removeprefix("unix:")))[1]
        except OSError as error:  # a TimeoutError is one
            raise EngineAbsent(str(error) or type(error).__name__) from error

    async def _answer(self, wire: Wire, *, kept: bool = False) -> Answer:
        data = b""
        try:
            while (end := data.find(b"\r\n\r\n")) < 0:
                if len(data) > HEAD_BYTES:
                    raise EngineGone("the head of the engine's answer is too long")
                data += await wire.receive()
            return Answer(self, wire, data[:end], data[end + 4 :]).start()
        except (ValueError, IndexError) as error:
            wire.abort()
            raise EngineGone("the engine's answer is not HTTP") from error
        except EngineGone as error:
            wire.abort()
            if kept and not data:
                raise _Stale from error
            raise
        except BaseException:
            wire.abort()
            raise


class _Stale(Exception):
    """A kept connection had been closed by the engine before it saw the request."""
