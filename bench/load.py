"""A load generator that costs little: keep-alive connections, prepared bytes, asyncio streams."""

import asyncio
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What a run of requests met. Latencies are seconds, sorted."""

    seconds: float
    latencies: tuple[float, ...]
    failures: int

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """The latency that `share` of the requests stayed under, in milliseconds."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * share))] * 1e3


def post_bytes(path: str, body: bytes, *, host: str, key: str = "") -> bytes:
    """A complete HTTP/1.1 request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def closed_loop(host: str, port: int, request: bytes, *, clients: int, seconds: float, expect: int) -> Load:
    """`clients` connections that each send the next request when the last was answered."""
    end = time.perf_counter() + seconds
    found: list[float] = []
    failures = 0

    async def client() -> None:
        nonlocal failures
        reader, writer = await asyncio.open_connection(host, port)
        while (begun := time.perf_counter()) < end:
            status = await _exchange(reader, writer, request)
            found.append(time.perf_counter() - begun)
            failures += status != expect
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Load(time.perf_counter() - started, tuple(sorted(found)), failures)


async def open_loop(host: str, port: int, request: bytes, *, rate: float, seconds: float, expect: int) -> Load:
    """`rate` requests a second whatever the answers do; latency counts from the moment a request was due."""
    found: list[float] = []
    failures = 0
    idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(32):
        idle.put_nowait(await asyncio.open_connection(host, port))

    async def one(due: float) -> None:
        nonlocal failures
        pair = await idle.get()
        status = await _exchange(*pair, request)
        found.append(time.perf_counter() - due)
        failures += status != expect
        idle.put_nowait(pair)

    started = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    taken = time.perf_counter() - started
    while not idle.empty():
        idle.get_nowait()[1].close()
    return Load(taken, tuple(sorted(found)), failures)


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line[:15].lower() == b"content-length:":
            length = int(line[15:])
    await reader.readexactly(length)
    return int(head[9:12])
