"""The lane and its client against a scripted server on a real Unix socket."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from shared.clock import monotonic
from shared.engine_client import EngineClient, EngineGone
from tests.support import wait_until
from workers.runtime.engine import Engine
from workers.runtime.engine_process import EngineProcess
from workers.runtime.lane import Lane
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.served import ServedModel
from workers.runtime.work import Work

STEP_S = 0.02


@dataclass
class Script:
    """What the server has seen, and how it answers."""

    uds: Path
    seen: list[str] = field(default_factory=list)
    flying: int = 0
    most: int = 0
    statuses: list[int] = field(default_factory=list)  #: of the next answers; then 200

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body["prompt"])
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            for _ in range(body.get("max_tokens", 1)):
                await asyncio.sleep(STEP_S)
                if await request.is_disconnected():
                    return Response()
        finally:
            self.flying -= 1
        return JSONResponse({"text": body["prompt"]}, status_code=self.statuses.pop(0) if self.statuses else 200)

    async def chunked(self, _: Request) -> Response:
        async def parts() -> Any:
            for part in (b'{"a":', b" 1", b"}"):
                yield part

        return StreamingResponse(parts())


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    script = Script(tmp_path / "e.sock")
    app = Starlette(
        routes=[Route("/v1/completions", script.completions, methods=["POST"]), Route("/c", script.chunked)]
    )
    config = uvicorn.Config(app, uds=str(script.uds), log_config=None, lifespan="off", timeout_keep_alive=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, what="the scripted server")
    yield script
    server.should_exit = True
    thread.join()


class ScriptedProcess:
    """Stands where an EngineProcess stands: its socket is the script's."""

    id = uuid4()

    def __init__(self, script: Script, client: EngineClient) -> None:
        self.script = script
        self.client = client
        self.killed = False
        self.stuck = 0  #: requests that it never lets go of

    async def stats(self) -> "ScriptedProcess":
        return self

    @property
    def running(self) -> int:
        return self.script.flying + self.stuck

    waiting = 0

    async def kill(self) -> None:
        self.killed = True


@asynccontextmanager
async def client_of(uds: Path) -> AsyncIterator[EngineClient]:
    client = EngineClient(uds)
    try:
        yield client
    finally:
        client.close()
        await asyncio.sleep(0)  # the loop closes the sockets


@asynccontextmanager
async def engine_of(script: Script, *, size: int) -> AsyncIterator[tuple[Engine, ScriptedProcess]]:
    async with client_of(script.uds) as client:
        process = ScriptedProcess(script, client)
        engine = Engine(ServedModel("d" * 64, "scripted", lambda: script.uds), [], lane=Lane(size))
        engine.up(cast("EngineProcess", process))
        yield engine, process


class Payer:
    """As much of a job as a lane needs."""

    def __init__(self) -> None:
        self.gpu_seconds = 0.0


def payer() -> Work:
    return cast("Work", Payer())


async def ask(engine: Engine, work: Work, prompt: str, *, tokens: int = 1) -> None:
    await engine.ask(work, "/v1/completions", {"prompt": prompt, "max_tokens": tokens})


class TestTurns:
    def test_the_engine_never_holds_more_than_its_size(self, script: Script) -> None:
        async def scene() -> None:
            async with engine_of(script, size=4) as (engine, _):
                work = payer()
                await asyncio.gather(*(ask(engine, work, "a") for _ in range(20)))

        asyncio.run(scene())
        assert (len(script.seen), script.most) == (20, 4)

    def test_a_small_job_is_not_starved_by_a_large_one(self, script: Script) -> None:
        async def scene() -> None:
            async with engine_of(script, size=4) as (engine, _):
                large, small = payer(), payer()
                large_lines = asyncio.gather(*(ask(engine, large, "large") for _ in range(60)))
                await asyncio.sleep(STEP_S)
                await ask(engine, small, "small")
                assert len(script.seen) < 20  # it went in with one of the next turns, not behind the sixty
                await large_lines

        asyncio.run(scene())
        assert Counter(script.seen) == {"large": 60, "small": 1}

    def test_jobs_pay_for_their_share_of_the_engine(self, script: Script) -> None:
        async def scene() -> None:
            async with engine_of(script, size=4) as (engine, _):
                three, one = payer(), payer()
                begun = monotonic()
                await asyncio.gather(
                    *(ask(engine, three, "a", tokens=10) for _ in range(3)), ask(engine, one, "b", tokens=10)
                )
                spent = monotonic() - begun
                assert three.gpu_seconds + one.gpu_seconds == pytest.approx(spent, rel=0.1)
                assert three.gpu_seconds == pytest.approx(3 * one.gpu_seconds, rel=0.3)

        asyncio.run(scene())

    def test_a_cancelled_wait_leaves_the_lane_as_it_was(self, script: Script) -> None:
        async def scene() -> None:
            async with engine_of(script, size=1) as (engine, _):
                first = asyncio.create_task(ask(engine, payer(), "first", tokens=5))
                waiting = [asyncio.create_task(ask(engine, payer(), "never")) for _ in range(3)]
                await asyncio.sleep(STEP_S)
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
                await first
                await ask(engine, payer(), "last")
                assert (engine.lane.in_flight, engine.lane.jobs) == (0, 0)

        asyncio.run(scene())
        assert script.seen == ["first", "last"]


class TestTrouble:
    def test_a_full_engine_is_asked_again(self, script: Script) -> None:
        script.statuses = [429, 503]

        async def scene() -> None:
            async with engine_of(script, size=1) as (engine, _):
                reply = await engine.ask(payer(), "/v1/completions", {"prompt": "a"})
                assert reply.status == 200

        asyncio.run(scene())
        assert len(script.seen) == 3

    def test_an_engine_that_keeps_dying_fails_the_request(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with engine_of(Script(tmp_path / "nobody.sock"), size=1) as (engine, process):
                asking = asyncio.create_task(ask(engine, payer(), "a"))
                for _ in range(3):
                    await asyncio.sleep(0.1)
                    engine.down()
                    engine.up(cast("EngineProcess", ScriptedProcess(process.script, process.client)))
                with pytest.raises(EngineFailed):
                    await asking

        asyncio.run(scene())

    def test_a_dropped_keepalive_connection_is_opened_again(self, script: Script) -> None:
        async def scene() -> None:
            async with client_of(script.uds) as client:
                await client.post("/v1/completions", {"prompt": "a"})
                await asyncio.sleep(2.2)  # the server closes idle connections after a second
                assert (await client.post("/v1/completions", {"prompt": "b"})).json() == {"text": "b"}

        asyncio.run(scene())

    def test_nobody_listening_is_an_engine_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(EngineGone):
            asyncio.run(EngineClient(tmp_path / "nobody.sock").get("/health"))

    def test_a_chunked_answer_is_put_together(self, script: Script) -> None:
        async def scene() -> Any:
            async with client_of(script.uds) as client:
                return (await client.get("/c")).json()

        assert asyncio.run(scene()) == {"a": 1}


class TestAbort:
    def test_cancelling_disconnects_and_the_engine_lets_go(self, script: Script) -> None:
        async def scene() -> None:
            async with engine_of(script, size=4) as (engine, process):
                asking = [asyncio.create_task(ask(engine, payer(), "a", tokens=1000)) for _ in range(3)]
                while script.flying < 3:  # noqa: ASYNC110 - another thread's count
                    await asyncio.sleep(STEP_S)
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)
                await engine.forget_aborted(within_s=5)
                assert (script.flying, process.killed) == (0, False)

        asyncio.run(scene())

    def test_an_engine_that_does_not_let_go_is_killed(self, script: Script) -> None:
        async def scene() -> bool:
            async with engine_of(script, size=4) as (engine, process):
                process.stuck = 1
                await engine.forget_aborted(within_s=0.3)
                return process.killed

        assert asyncio.run(scene())
