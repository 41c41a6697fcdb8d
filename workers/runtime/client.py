"""HTTP/1.1 over an engine's Unix socket: connections are kept, and closing one aborts its request.

By hand, because the lane pays for every request: 0.1 ms of CPU here, 0.9 ms through httpx (bench/, 64 in
flight).
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

HEAD_BYTES = 64 * 1024
CHAIN_END = b"\r\n"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class EngineGone(ConnectionError):
    """The engine closed the connection, or nobody listens."""


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


class EngineClient:
    """Requests to one engine. Used on one loop."""

    def __init__(self, uds: Path, *, token: str | None = None) -> None:
        self._uds = uds
        self._bearer = f"Authorization: Bearer {token}\r\n" if token else ""
        self._idle: list[Connection] = []

    async def get(self, path: str) -> Reply:
        """`GET path`. Raises EngineGone."""
        return await self._request(self._head("GET", path, 0))

    async def post(self, path: str, body: Any) -> Reply:
        """`POST path` with a JSON body. Cancelling closes the connection, and so aborts it. Raises EngineGone."""
        data = orjson.dumps(body)
        return await self._request(self._head("POST", path, len(data)) + data)

    async def lifeline(self) -> asyncio.StreamReader:
        """Open `GET /lifeline` and leave it open: the engine lives while this client does. Raises EngineGone.

        The reader's end of file means that the engine closed it.
        """
        reader, writer = await self._open()
        self._lifeline = writer  # the connection lives as long as its writer is referenced
        await self._send(writer, self._head("GET", "/lifeline", 0))
        status, _ = await self._read_head(reader)
        if status != 200:
            writer.transport.abort()
            raise EngineGone(f"the engine refused the lifeline with status {status}")
        return reader

    def close(self) -> None:
        """Close every connection, the lifeline included."""
        for _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()
        if (lifeline := getattr(self, "_lifeline", None)) is not None:
            lifeline.transport.abort()

    def _head(self, method: str, path: str, length: int) -> bytes:
        body = f"Content-Type: application/json\r\nContent-Length: {length}\r\n" if method == "POST" else ""
        return f"{method} {path} HTTP/1.1\r\nHost: engine\r\n{self._bearer}{body}\r\n".encode()

    async def _request(self, message: bytes) -> Reply:
        while self._idle:
            connection = self._idle.pop()
            with suppress(_Stale):
                return await self._exchange(connection, message, kept=True)
        return await self._exchange(await self._open(), message, kept=False)

    async def _exchange(self, connection: Connection, message: bytes, *, kept: bool) -> Reply:
        reader, writer = connection
        done = False
        try:
            await self._send(writer, message, kept=kept)
            status, headers = await self._read_head(reader, kept=kept)
            body = await _read_body(reader, headers)
            done = True
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            raise EngineGone(str(error)) from error
        finally:
            if done and headers.get("connection") != "close":
                self._idle.append(connection)
            else:
                writer.transport.abort()
        return Reply(status, body)

    async def _open(self) -> Connection:
        try:
            return await asyncio.open_unix_connection(str(self._uds), limit=HEAD_BYTES)
        except OSError as error:
            raise EngineGone(str(error)) from error

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, message: bytes, *, kept: bool = False) -> None:
        try:
            writer.write(message)
            await writer.drain()
        except OSError as error:
            raise (_Stale if kept else EngineGone)(str(error)) from error

    @staticmethod
    async def _read_head(reader: asyncio.StreamReader, *, kept: bool = False) -> tuple[int, dict[str, str]]:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if kept and not error.partial:
                raise _Stale from error
            raise EngineGone("the engine closed the connection") from error
        except OSError as error:
            raise (_Stale if kept else EngineGone)(str(error)) from error
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines if line)
        return int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in fields}


class _Stale(Exception):
    """A kept connection had been closed by the engine before it saw the request."""


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        parts = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
        return b"".join(parts)
    return await reader.readexactly(int(headers.get("content-length", "0")))
