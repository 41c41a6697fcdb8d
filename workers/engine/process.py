"""The engine's process: a socket, a model, and the ways in which both end."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import uvloop

from shared.contracts.engine import EXIT_FAILED, EXIT_LIFELINE, EngineConfig
from workers.engine.generation import Generator, Wishes
from workers.engine.life import Lifelines
from workers.engine.log import log, seconds_since
from workers.engine.model import load
from workers.engine.server import create_app
from workers.engine.state import Engine

_POLL_S = 0.5  # how soon a generation loop that died is noticed


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: SIGTERM drains first."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(config: EngineConfig) -> int:
    """Serve until told to stop; answers the exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


async def _serve(config: EngineConfig) -> int:
    started, loop, told = time.monotonic(), asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    engine = Engine(config, Lifelines(lambda: _abandon(config)))
    options = uvicorn.Config(
        create_app(engine), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = _Server(options)
    serving = asyncio.create_task(server.serve(sockets=[_bind(config.uds)]))
    living = asyncio.create_task(_live(engine, started))
    await asyncio.wait({living, asyncio.create_task(told.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if not living.done():
        log("draining")
        await engine.drain()
    server.should_exit = True
    await serving
    config.uds.unlink(missing_ok=True)
    return living.result() if living.done() else 0


async def _live(engine: Engine, started: float) -> int:
    """Load, warm up and watch; returns an exit status only when something is wrong."""
    config = engine.config
    try:
        model = await asyncio.to_thread(load, config)
    except Exception as error:  # noqa: BLE001 - whatever a bad folder makes transformers raise
        log("load_failed", level=logging.ERROR, error=f"{type(error).__name__}: {error}")
        return EXIT_FAILED
    log("loaded", seconds=seconds_since(started), context_length=model.context_length)
    model.manager.start()
    generator = Generator(model, config)
    await _warm_up(generator)
    gc.freeze()  # what imports and loading made stays for good: no collection looks at it again
    gc.enable()
    engine.ready(generator)
    log("ready", seconds=seconds_since(started))
    while model.manager.is_running():  # noqa: ASYNC110 - the manager has no event for its end
        await asyncio.sleep(_POLL_S)
    log("generation_loop_died", level=logging.ERROR)
    return EXIT_FAILED


async def _warm_up(generator: Generator) -> None:
    """One small generation: the first one pays for lazy set-up inside torch."""
    wishes = Wishes(max_tokens=2, temperature=1.0, top_k=0, top_p=1.0, seed=0, stops=(), ignore_eos=True, stream=False)
    flight = generator.admit([[0] * 8], wishes, param="warm-up")
    with contextlib.closing(flight):
        async for _ in flight.pieces():
            pass


def _bind(path: Path) -> socket.socket:
    """A listening socket for our own user alone. It gets its name last, so that whoever sees it can connect."""
    unnamed = Path(f"{path}~")
    unnamed.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(bytes(unnamed))
    finally:
        os.umask(before)
    listener.listen(2048)
    unnamed.replace(path)  # also over the socket of an engine that was killed
    return listener


def _abandon(config: EngineConfig) -> None:
    """The last lifeline broke: nobody wants what this process could still do."""
    log("lifeline_lost")
    config.uds.unlink(missing_ok=True)
    os._exit(EXIT_LIFELINE)
