"""`/health/ready`: each thing that we stand on, asked within a second, and what follows for us.

In production a gateway is ready when it can accept jobs: PostgreSQL and the store answer. Without a worker, a relay or
a broker it still accepts them, and taking every gateway out of rotation would only lose them. A yard on one host is
ready when all of it is, because that is what `modelyard up` waits for.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID

from pydantic import Field
from sqlalchemy.orm import Session

from gateway.edge import Edge
from gateway.schemas.common import Out
from services.health import service
from shared.cache import Cache
from shared.clock import monotonic
from shared.settings import Environment

LONGEST_S = 1.0
KEPT_S = 0.5  #: an answer serves everybody who asks within this
ALWAYS = frozenset({"postgres", "store"})
ON_ONE_HOST = ALWAYS | {"broker", "worker", "relay"}


class Check(Out):
    """One thing that we stand on."""

    ok: bool
    needed: bool = Field(description="whether readiness depends on it")
    latency_ms: float | None = Field(description="null when no answer came in time")
    error: str | None = None


class Ready(Out):
    """The answer; 200 when `ready`, else 503."""

    ready: bool
    checks: dict[str, Check]


class Readiness:
    """Asks everything at once; a question that hangs is not asked again until it ends."""

    def __init__(self, edge: Edge) -> None:
        settings = edge.settings
        embedded = settings.environment is not Environment.PRODUCTION
        self._needed = ON_ONE_HOST if embedded else ALWAYS
        self._broker = Cache(settings.broker_url.get_secret_value())
        self._database = edge.database
        self._questions: dict[str, Callable[[], object]] = {
            "postgres": lambda: self._ask(service.ping),
            "store": lambda: edge.store.size(UUID(int=0), "0" * 64),
            "broker": self._broker.ping,
            "cache": edge.cache.ping,
            "worker": lambda: self._ask(service.has_worker),
            "relay": lambda: self._ask(service.has_relay),
        }
        self._threads = ThreadPoolExecutor(len(self._questions), thread_name_prefix="readiness")
        self._open: dict[str, Future[Check]] = {}
        self._last: tuple[float, Ready] | None = None

    async def look(self) -> Ready:
        """The state of everything, at most half a second old."""
        if self._last and monotonic() - self._last[0] < KEPT_S:
            return self._last[1]
        names = list(self._questions)
        checks = dict(zip(names, await asyncio.gather(*map(self._check, names)), strict=True))
        ready = all(check.ok for check in checks.values() if check.needed)
        self._last = (monotonic(), Ready(ready=ready, checks=checks))
        return self._last[1]

    def close(self) -> None:
        """Let go of the broker and the threads; a question that hangs ends by its own limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._broker.close()

    async def _check(self, name: str) -> Check:
        open_ = self._open.get(name)
        if open_ is None or open_.done():
            open_ = self._open[name] = self._threads.submit(self._answer, name)
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(open_)), LONGEST_S)
        except TimeoutError:
            return self._said(name, ok=False, latency_ms=None, error="no answer within a second")

    def _answer(self, name: str) -> Check:
        began = monotonic()
        try:
            there = self._questions[name]() is not False
        except Exception as error:  # noqa: BLE001 - whatever it is, the thing is not there
            return self._said(name, ok=False, latency_ms=None, error=type(error).__name__)
        latency_ms = round((monotonic() - began) * 1000, 1)
        return self._said(name, ok=there, latency_ms=latency_ms, error=None if there else "there is none")

    def _said(self, name: str, *, ok: bool, latency_ms: float | None, error: str | None) -> Check:
        return Check(ok=ok, needed=name in self._needed, latency_ms=latency_ms, error=error)

    def _ask(self, question: Callable[[Session], object]) -> object:
        with self._database.transaction() as session:
            return question(session)
