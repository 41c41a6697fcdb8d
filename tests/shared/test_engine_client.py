"""The client of engines: framing in any pieces, kept connections, aborts, TCP and Unix sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.engine_client import EngineClient, EngineGone
from shared.wire import Chunked

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def serving(path: Path, handle: Handler) -> AsyncIterator[EngineClient]:
    """A server whose connections `handle` answers, and a client of it."""
    done = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            done.set()

    server = await asyncio.start_unix_server(connected, path)
    client = EngineClient(f"unix:{path}", token="secret")
    try:
        yield client
    finally:
        client.close()
        server.close()


async def request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.partition(b":")[2]))
    return head


def frames(parts: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


class TestChunked:
    @given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(1, 30), min_size=1))
    def test_content_is_the_same_however_the_bytes_are_cut(self, parts: list[bytes], cuts: list[int]) -> None:
        wire, body, out, at = frames(parts), Chunked(), b"", 0
        for step in cuts * (len(wire) // len(cuts) + 1):
            out += body.feed(wire[at : at + step])
            at += step
        assert (out, body.done) == (b"".join(parts), True)

    def test_extensions_and_trailers_are_dropped(self) -> None:
        body = Chunked()
        assert body.feed(b"2;x=y\r\nhi\r\n0\r\nDigest: z\r\n\r\n") == b"hi"
        assert body.done

    @pytest.mark.parametrize("wire", [b"zz\r\n", b"\r\n", b"1" * 2000])
    def test_what_is_no_chunk_is_refused(self, wire: bytes) -> None:
        with pytest.raises(ValueError, match=r"invalid literal|too long"):
            Chunked().feed(wire)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
class TestRequests:
    async def test_sends_the_token_and_keeps_the_connection(self, tmp_path: Path) -> None:
        seen: list[bytes] = []
        connections = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            while True:
                seen.append(await request(reader))
                writer.write(OK)

        async with serving(tmp_path / "s", handle) as client:
            for _ in range(3):
                assert (await client.post("/v1/completions", {"a": 1})).body == b"ok"
        assert connections == 1
        assert b"Authorization: Bearer secret\r\n" in seen[0]
        assert seen[0].endswith(b'{"a":1}')

    async def test_a_kept_connection_that_the_engine_closed_is_replaced(self, tmp_path: Path) -> None:
        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(OK)

        async with serving(tmp_path / "s", once) as client:
            assert (await client.get("/stats")).status == 200
            assert (await client.get("/stats")).status == 200

    async def test_nobody_there_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(EngineGone):
            await EngineClient(tmp_path / "nobody").get("/stats")
        with pytest.raises(EngineGone):
            await EngineClient("http://127.0.0.1:9").get("/stats")

    @pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"])
    async def test_an_engine_that_breaks_off_is_gone(self, tmp_path: Path, answer: bytes) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(answer)

        async with serving(tmp_path / "s", handle) as client:
            with pytest.raises(EngineGone):
                await client.get("/stats")

    async def test_speaks_tcp(self) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(OK)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert (await EngineClient(f"http://127.0.0.1:{port}").get("/stats")).body == b"ok"
        server.close()


@pytest.mark.anyio
class TestStreams:
    async def test_pieces_come_as_they_arrive_and_the_connection_is_kept(self, tmp_path: Path) -> None:
        go, connections = asyncio.Event(), 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            while True:
                await request(reader)
                writer.write(STREAM + b"3\r\none\r\n")
                await go.wait()
                writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

        async with serving(tmp_path / "s", handle) as client:
            answer = await client.open("/v1/completions", b"{}")
            assert (answer.status, await answer.read(), answer.ended) == (200, b"one", False)
            go.set()
            assert (await answer.read(), answer.ended) == (b"two", True)
            assert await (await client.open("/v1/completions", b"{}")).whole() == b"onetwo"
        assert connections == 1

    async def test_a_nudge_wakes_the_reader_without_news(self, tmp_path: Path) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(STREAM)
            await reader.read()

        async with serving(tmp_path / "s", handle) as client:
            answer = await client.open("/v1/completions", b"{}")
            asyncio.get_running_loop().call_later(0.01, answer.nudge)
            assert (await answer.read(), answer.ended) == (b"", False)
            answer.close()

    async def test_closing_an_answer_hangs_up_on_the_engine(self, tmp_path: Path) -> None:
        hung_up = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(STREAM + b"3\r\none\r\n")
            try:
                await reader.read()
            finally:
                hung_up.set()

        async with serving(tmp_path / "s", handle) as client:
            answer = await client.open("/v1/completions", b"{}")
            assert await answer.read() == b"one"
            answer.close()
            async with asyncio.timeout(5):
                await hung_up.wait()

    async def test_a_reader_that_lags_makes_the_engine_wait(self, tmp_path: Path) -> None:
        written = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await request(reader)
            writer.write(STREAM)
            piece = b"10000\r\n" + bytes(65536) + b"\r\n"
            for _ in range(200):
                writer.write(piece)
                await writer.drain()
                written += 1
            writer.write(b"0\r\n\r\n")

        async with serving(tmp_path / "s", handle) as client:
            answer = await client.open("/v1/completions", b"{}")
            for _ in range(50):
                await asyncio.sleep(0)
            assert written < 100
            assert len(await answer.whole()) == 200 * 65536
