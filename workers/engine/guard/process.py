"""The guard's process: a control socket, a server on a leash, and the ways in which both end."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from shared.contracts.engine import EXIT_FAILED, EXIT_LIFELINE, EngineState
from shared.contracts.guard import GuardConfig
from workers.engine.guard.bridge import address_to_socket, socket_to_port
from workers.engine.guard.control import create_app
from workers.engine.guard.state import Guarded
from workers.engine.guard.tree import end_descendants
from workers.engine.guard.warden import Warden
from workers.engine.life import Lifelines
from workers.engine.listening import Server, bind
from workers.engine.log import log, seconds_since

_SIGNALLED = 128  # statuses above tell of a signal
_TERM_S = 3.0  # what a drained server has between SIGTERM and SIGKILL


def run(config: GuardConfig, warden: Warden) -> int:
    """Guard until the server ends or has to; answers the exit status."""
    return asyncio.run(_serve(config, warden))


async def _serve(config: GuardConfig, warden: Warden) -> int:
    started, loop = time.monotonic(), asyncio.get_running_loop()
    told, abandoned = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    guarded = Guarded(config, Lifelines(abandoned.set), warden_pid=warden.pid)
    ended = asyncio.ensure_future(asyncio.to_thread(warden.wait))
    async with _served(guarded), _bridged(config):
        up = asyncio.ensure_future(_up(guarded, started))
        reasons: list[asyncio.Future[Any]] = [ended, asyncio.ensure_future(abandoned.wait())]
        await asyncio.wait([*reasons, asyncio.ensure_future(told.wait())], return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if abandoned.is_set():
            log("lifeline_lost")
            status = EXIT_LIFELINE
        elif told.is_set():
            log("draining")
            await _leave(guarded, warden, reasons)
            status = 0
        else:
            # The first is the word by which a worker knows that another try is of no use.
            failed = guarded.state is EngineState.STARTING and 0 <= ended.result() <= _SIGNALLED
            log("load_failed" if failed else "server_died", level=logging.ERROR, server_status=ended.result())
            status = EXIT_FAILED
        warden.release()
        await ended
        await asyncio.to_thread(end_descendants)  # of a warden that was killed itself
    return status


async def _up(guarded: Guarded, started: float) -> None:
    await guarded.up()
    log("ready", seconds=seconds_since(started))


async def _leave(guarded: Guarded, warden: Warden, reasons: list[asyncio.Future[Any]]) -> None:
    """Let the server finish what it has, then ask it to leave, unless there is a reason to hurry.

    What it does not do in time is left to the warden.
    """
    drained = asyncio.ensure_future(guarded.drain())
    await asyncio.wait([drained, *reasons], return_when=asyncio.FIRST_COMPLETED)
    if drained.done():
        warden.terminate()
        await asyncio.wait(reasons, timeout=_TERM_S, return_when=asyncio.FIRST_COMPLETED)


@asynccontextmanager
async def _served(guarded: Guarded) -> AsyncIterator[None]:
    """The control socket."""
    path = guarded.config.control
    server = Server(create_app(guarded))
    serving = asyncio.create_task(server.serve(sockets=[bind(path)]))
    try:
        yield
    finally:
        guarded.stopped.set()
        server.should_exit = True
        await serving
        path.unlink(missing_ok=True)


@asynccontextmanager
async def _bridged(config: GuardConfig) -> AsyncIterator[None]:
    """What connects addresses that the server does not know itself."""
    async with AsyncExitStack() as stack:
        if config.port is not None:
            await stack.enter_async_context(await socket_to_port(config.uds, config.port))
        if config.listen is not None:
            await stack.enter_async_context(await address_to_socket(config.listen, config.uds))
        yield
        config.uds.unlink(missing_ok=True)
