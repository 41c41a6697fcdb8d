"""The engine's process: a socket, a model, and the ways in which both end."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from typing import Any

import torch
import uvloop

from shared.contracts.engine import EXIT_FAILED, EXIT_LIFELINE, EXIT_OOM, EngineConfig
from workers.engine.generation import Generator, Wishes
from workers.engine.life import Lifelines
from workers.engine.listening import BACKLOG, Server, bind
from workers.engine.log import log, seconds_since
from workers.engine.model import load
from workers.engine.parallel import Rank, Ranks, join
from workers.engine.server import create_app
from workers.engine.state import Engine

_POLL_S = 0.5  # how soon a generation loop that died is noticed


def run(config: EngineConfig, rank: Rank, ranks: Ranks, *, threads: int | None) -> int:
    """Serve until told to stop; answers the exit status."""
    _set_threads(threads)
    # Not asyncio.run: it would wait for a thread that loads, or that waits for a rank which is gone.
    return uvloop.new_event_loop().run_until_complete(_serve(config, rank, ranks))


def follow(config: EngineConfig, rank: Rank, *, threads: int | None) -> int:
    """Be one of the other ranks: generate what rank 0 says until it stops; answers the exit status."""
    _set_threads(threads)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # a signal for the whole group must not cut short what rank 0 drains
    try:
        join(config, rank)
        model = load(config)
    except Exception as error:  # noqa: BLE001 - whatever a bad folder makes transformers raise
        return _said("load_failed", error)
    _collect_rarely()
    model.follow(config)
    fatal = model.manager.background_thread_status.fatal_error
    return 0 if fatal is None else _said("generation_loop_died", fatal)


async def _serve(config: EngineConfig, rank: Rank, ranks: Ranks) -> int:
    started, loop, told = time.monotonic(), asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    engine = Engine(config, Lifelines(lambda: _abandon(config)), pids=(os.getpid(), *ranks.pids))
    server = Server(create_app(engine))
    serving = asyncio.create_task(server.serve(sockets=_sockets(config)))
    living = asyncio.create_task(_live(engine, rank, started))
    broken: asyncio.Future[int] = loop.create_future()
    ranks.watch(lambda number, status: loop.call_soon_threadsafe(_lost, broken, number, status))
    endings: set[asyncio.Future[Any]] = {living, broken, asyncio.create_task(told.wait())}
    await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
    failed = next((task.result() for task in (living, broken) if task.done()), 0)
    if not failed:
        log("draining")
        await engine.drain()
    server.should_exit = True
    await serving
    config.uds.unlink(missing_ok=True)
    if not failed and rank.of > 1:
        living.cancel()
        broken.cancel()  # from here on they may go
        await asyncio.to_thread(_dismiss, engine, ranks)
    return failed


async def _live(engine: Engine, rank: Rank, started: float) -> int:
    """Load, warm up and watch; returns an exit status only when something is wrong."""
    config = engine.config
    try:
        await asyncio.to_thread(join, config, rank)
        model = await asyncio.to_thread(load, config)
    except Exception as error:  # noqa: BLE001 - whatever a bad folder makes transformers raise
        return _said("load_failed", error)
    log("loaded", seconds=seconds_since(started), context_length=model.context_length)
    served = engine.serve(model)
    try:
        await asyncio.to_thread(model.capture, config)
        await _warm_up(served.generator)
    except Exception as error:  # noqa: BLE001 - the first step is where a device runs out of memory
        await asyncio.to_thread(model.manager.join, 0.0, timeout=1.0)  # requests fail first, its reason comes after
        return _said("warm_up_failed", served.failure or error)
    _collect_rarely()
    engine.ready(served)
    log("ready", seconds=seconds_since(started))
    while (failure := engine.failure()) is None:  # noqa: ASYNC110 - the manager has no event for its end
        await asyncio.sleep(_POLL_S)
    return _said("generation_loop_died", failure)


def _collect_rarely() -> None:
    gc.freeze()  # what imports and loading made stays for good: no collection looks at it again
    gc.enable()


async def _warm_up(generator: Generator) -> None:
    """One small generation: the first one pays for lazy set-up inside torch."""
    wishes = Wishes(max_tokens=2, temperature=1.0, top_k=0, top_p=1.0, seed=0, stops=(), ignore_eos=True, stream=False)
    flight = generator.admit([[0] * 8], wishes, param="warm-up")
    with contextlib.closing(flight):
        async for _ in flight.pieces():
            pass


def _said(event: str, error: Exception) -> int:
    """Log what ended the engine; answers the exit status that says so too."""
    # The allocator of the CPU has no exception of its own.
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "not enough memory" in str(error)
    kind = "OutOfMemoryError" if out_of_memory else type(error).__name__
    log(event, level=logging.ERROR, error=f"{kind}: {error}")
    return EXIT_OOM if out_of_memory else EXIT_FAILED


def _lost(broken: asyncio.Future[int], number: int, status: int) -> None:
    """A rank ended, and nobody had told it to."""
    if not broken.done():
        log("rank_died", level=logging.ERROR, lost=number, status=status)
        broken.set_result(status if status in (EXIT_FAILED, EXIT_OOM) else EXIT_FAILED)


def _dismiss(engine: Engine, ranks: Ranks) -> None:
    """Tell the other ranks that generation is over, and see them go."""
    engine.close()
    ranks.end()


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)  # a spare process read its environment before it knew


def _sockets(config: EngineConfig) -> list[socket.socket]:
    """What the engine listens on."""
    sockets = [bind(config.uds)]
    if config.listen is not None:
        host, _, port = config.listen.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sockets.append(socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG))
    return sockets


def _abandon(config: EngineConfig) -> None:
    """The last lifeline broke: nobody wants what this process could still do."""
    log("lifeline_lost")
    config.uds.unlink(missing_ok=True)
    os._exit(EXIT_LIFELINE)
