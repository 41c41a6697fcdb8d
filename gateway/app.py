"""The gateway's application: `uvicorn --factory gateway.app:create_app`."""

import logging
import resource
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from gateway import errors, openapi
from gateway.calls.calls import Calls
from gateway.edge import Edge
from gateway.middleware import BodyLimit, Envelope, Hosts
from gateway.readiness import Readiness
from gateway.routes import (
    api_keys,
    artifacts,
    batches,
    cache,
    chat,
    completions,
    compression,
    docs,
    document_sets,
    domain_packs,
    embeddings,
    files,
    fine_tuning,
    gpu_classes,
    health,
    job_events,
    job_parts,
    jobs,
    metrics,
    models,
    uploads,
    workers,
)
from gateway.submitter import Submitter
from gateway.watch import Watch
from shared import telemetry
from shared.settings import Settings
from shared.settings import settings as read_settings

FILES = 65_536  #: open files that a gateway process asks for

INFERENCE = (chat, completions, embeddings)
JOBS = (jobs, job_events, job_parts, artifacts, batches, fine_tuning, document_sets, domain_packs)
YARD = (gpu_classes, workers, api_keys, metrics, docs, health)
#: compression comes before models, whose names are paths: `a/compare/b` is none
ROUTERS = (*JOBS, *INFERENCE, cache, files, uploads, compression, models, *YARD)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application of one gateway process. Without `settings` it reads them, and sends its log to stderr as JSON."""
    if settings is None:
        settings = read_settings()
        _log(settings)
        _open_files()
    app = FastAPI(
        title=openapi.TITLE,
        version=version("modelyard"),
        lifespan=_lifespan(settings),
        docs_url=None,  # FastAPI's pages load their scripts from a third party
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    for module in ROUTERS:
        # Not `include_router`, which matches every request twice to let a router be included with other options.
        app.router.routes.extend(module.router.routes)
    errors.install(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(Hosts, allowed=settings.allowed_hosts)
    app.add_middleware(Envelope)  # the last one added is the outermost
    return app


def _lifespan(settings: Settings) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        edge = app.state.edge = Edge.of(settings)
        app.state.submitter = Submitter(edge)
        readiness = app.state.readiness = Readiness(edge)
        calls = app.state.calls = Calls(edge)
        calls.start()
        edge.watch.start()
        with _closing_early(edge.watch):
            yield
        await calls.stop()
        await edge.watch.stop()
        await edge.responses.close()
        readiness.close()
        edge.close()

    return lifespan


@contextmanager
def _closing_early(watch: Watch) -> Iterator[None]:
    """Let waiting requests go at SIGTERM: the server stops only when all have ended, and a stream lives 15 minutes."""
    if threading.current_thread() is not threading.main_thread():
        yield  # a server inside another program: its signals are not ours
        return
    serving = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def close(number: int, frame: FrameType | None) -> None:
        watch.close_soon()
        handler = serving[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in serving:
        signal.signal(number, close)
    try:
        yield
    finally:
        for number, handler in serving.items():
            signal.signal(number, handler)


def _operation_id(route: APIRoute) -> str:
    """The function's own name: short, and stable for generated clients."""
    return route.name


def _open_files() -> None:
    """As many as we may: a call that streams holds two, and 1,024 is a common default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _log(settings: Settings) -> None:
    telemetry.configure("gateway", level=settings.log_level)
    for name in ("uvicorn", "uvicorn.error"):  # its own handlers write plain text; its access log stays off
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
