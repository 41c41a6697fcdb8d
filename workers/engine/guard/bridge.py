"""Bytes between two addresses: a server that knows no Unix sockets gets one, one that knows nothing else a port."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from workers.engine.listening import bind

_CHUNK = 64 * 1024

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Connection]]


async def socket_to_port(uds: Path, port: int) -> asyncio.Server:
    """Serve on `uds` what a server on this host's loopback `port` answers."""
    return await asyncio.start_unix_server(_joined(lambda: asyncio.open_connection("127.0.0.1", port)), sock=bind(uds))


async def address_to_socket(listen: str, uds: Path) -> asyncio.Server:
    """Serve on `address:port` what a server on `uds` answers."""
    host, _, port = listen.rpartition(":")
    return await asyncio.start_server(_joined(lambda: asyncio.open_unix_connection(uds)), host.strip("[]"), int(port))


def _joined(dial: Dial) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await dial()
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_pump(reader, back), _pump(there, writer))

    return join


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass bytes on until one side ends; then the other side ends too: that is how a client aborts its request."""
    with suppress(OSError):
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()
    with suppress(OSError):
        sink.close()
