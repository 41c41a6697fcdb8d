"""The bytes of one connection to an engine, as they arrive, and what HTTP/1.1 wraps a body in (RFC 9112)."""

import asyncio
from typing import Final, cast

BUFFER_BYTES: Final = 256 * 1024  # of an answer that nobody reads: then the engine waits
_SIZE_BYTES: Final = 1024  # of a chunk's first line
_LINE: Final = b"\r\n"


class EngineGone(ConnectionError):
    """The engine closed the connection, or nobody listens."""


class EngineAbsent(EngineGone):
    """Nobody listens: no request has begun."""


class Wire(asyncio.Protocol):
    """One connection: bytes come in as they arrive. A third of the cost of asyncio's streams."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._held = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held += len(data)
        if self._held > BUFFER_BYTES and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self.nudge()

    def eof_received(self) -> None:
        self.closed = True
        self.nudge()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.closed = True
        self.nudge()

    def nudge(self) -> None:
        """Let whoever waits in `receive` look up."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> bytes:
        """What has arrived, as soon as there is something; empty after a `nudge` without news.

        Raises:
            EngineGone: the connection is closed and everything was read.
        """
        if not self._pieces:
            if self.closed:
                raise EngineGone("the engine closed the connection")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
            if not self._pieces:
                return b""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        return data

    def abort(self) -> None:
        """Close at once; what the engine was doing for us is aborted."""
        self.closed = True
        self.transport.abort()


class Sized:
    """A body of a length told beforehand."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        return self._left == 0

    def feed(self, data: bytes) -> bytes:
        out = data[: self._left]
        self._left -= len(out)
        return out


class Chunked:
    """Takes `Transfer-Encoding: chunked` off (RFC 9112 §7.1), whatever the pieces it comes in. Trailers are dropped."""

    def __init__(self) -> None:
        self.done = False
        self._left = 0  # bytes of the chunk that are still to come, its line end included
        self._last = False
        self._kept = b""

    def feed(self, data: bytes) -> bytes:
        """The content of `data`. Raises ValueError."""
        data, at, out = self._kept + data, 0, []
        while at < len(data) and not self.done:
            if self._left:
                taken = min(self._left, len(data) - at)
                out.append(data[at : at + min(taken, max(0, self._left - 2))])
                at += taken
                self._left -= taken
                continue
            end = data.find(_LINE, at)
            if end < 0:
                break
            self._line(data[at:end])
            at = end + 2
        self._kept = data[at:]
        if len(self._kept) > _SIZE_BYTES:
            raise ValueError("a line of the chunked body is too long")
        return out[0] if len(out) == 1 else b"".join(out)

    def _line(self, line: bytes) -> None:
        if self._last:
            self.done = not line  # the empty line behind the trailers
        elif size := int(line.partition(b";")[0], 16):
            self._left = size + 2
        else:
            self._last = True
