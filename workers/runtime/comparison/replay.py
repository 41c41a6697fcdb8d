"""A trace through a lane to a real engine process, which is started for it and needs no yard."""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import orjson

from shared.clock import monotonic
from shared.contracts.engine import EngineConfig
from shared.contracts.serving import Batching
from shared.embedded.environment import PASSED
from shared.engine_client import EngineClient, EngineGone
from shared.settings import passed_on
from workers.runtime.comparison.score import Score, Served, score
from workers.runtime.comparison.simulation import JOBS
from workers.runtime.comparison.trace import Arrival
from workers.runtime.lane import Lane

START_S: Final = 120.0
STOP_S: Final = 10.0
POLL_S: Final = 0.05
TAIL: Final = 2000  # characters of a log
WARM: Final = 8  # requests before the first trace
WORDS_A_TOKEN: Final = 0.6
WORDS: Final = (
    *("model", "worker", "engine", "queue", "batch", "token", "lease", "claim", "bell", "lane", "tenant", "store"),
    *("the", "and", "of", "with", "for", "from", "that", "each", "when", "then", "under", "after", "before", "until"),
)


class EngineNotReady(Exception):
    """The engine did not start."""


class _Job:
    """Who asks; nobody bills it."""

    gpu_seconds = 0.0


@asynccontextmanager
async def engine_on(model: Path, *, size: int) -> AsyncIterator[EngineClient]:
    """An engine that serves the model in this folder, with `size` places, until the block ends.

    Raises:
        EngineNotReady: it died, or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as name:
        folder = Path(name)
        config = EngineConfig(
            engine_id="bench",
            model_path=model,
            models=(model.name,),
            uds=folder / "socket",
            max_in_flight=size,
            parent_pid=os.getpid(),
        )
        (folder / "config.json").write_text(config.model_dump_json())
        with (folder / "log").open("wb") as log:
            argv = [sys.executable, "-m", "workers.engine", str(folder / "config.json")]
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log, env=passed_on(PASSED))  # noqa: ASYNC220
        client = EngineClient(config.uds)
        try:
            await _ready(process, client, folder / "log")
            yield client
        finally:
            client.close()
            await asyncio.to_thread(_end, process)


async def replay(
    client: EngineClient,
    trace: Sequence[Arrival],
    batching: Batching,
    *,
    model: str,
    size: int,
    rate: float,
    slo_s: float,
    progress: Callable[[int], None] = lambda _: None,
) -> Score:
    """Send a trace through a lane with this policy; `progress` is told how many have their answer.

    Raises:
        EngineGone: the engine died.
    """
    lane, jobs, begun = Lane(size, batching=batching), [_Job() for _ in range(JOBS)], monotonic()
    served: list[Served] = []

    async def one(number: int, arrival: Arrival) -> None:
        await asyncio.sleep(begun + arrival.at - monotonic())
        async with lane.turn(jobs[number % JOBS], cost=arrival.cost) as turn:
            first = await _stream(client, model, arrival, seed=number)
            turn.output_tokens = arrival.cost.output_tokens
        served.append(Served(arrival.at, first - begun, monotonic() - begun, arrival.cost.output_tokens))
        progress(len(served))

    async with asyncio.TaskGroup() as group:
        for number, arrival in enumerate(trace):
            group.create_task(one(number, arrival))
    mean = lane.figures().batch_size
    return score(served, policy=batching.policy, rate=rate, slo_s=slo_s, batch=mean)


async def warm(client: EngineClient, trace: Sequence[Arrival], *, model: str) -> None:
    """Let the engine allocate what it allocates once. Raises EngineGone."""
    await asyncio.gather(*(_stream(client, model, arrival, seed=-1) for arrival in trace[:WARM]))


async def _stream(client: EngineClient, model: str, arrival: Arrival, *, seed: int) -> float:
    """One streamed completion of a known length; when its first token came. Raises EngineGone."""
    chance = random.Random(seed)
    words = max(1, round(arrival.cost.prompt_tokens * WORDS_A_TOKEN))
    body = {
        "model": model,
        "prompt": " ".join(chance.choices(WORDS, k=words)),
        "max_tokens": arrival.cost.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    answer = await client.open("/v1/completions", orjson.dumps(body))
    try:
        if answer.status != 200:
            raise EngineGone(f"the engine answered {answer.status}: {(await answer.whole())[:500].decode()}")
        await answer.read()
        first = monotonic()
        await answer.whole()
    finally:
        answer.close()
    return first


async def _ready(process: subprocess.Popen[bytes], client: EngineClient, log: Path) -> None:
    deadline = monotonic() + START_S
    while process.poll() is None and monotonic() < deadline:
        try:
            if (await client.get("/health")).status == 200:
                return
        except EngineGone:
            pass  # its socket is not there yet
        await asyncio.sleep(POLL_S)
    words = await asyncio.to_thread(log.read_text, errors="replace")
    raise EngineNotReady(f"the engine did not start:\n{words[-TAIL:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
