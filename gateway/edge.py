"""What a gateway process holds: its connections, and the threads in which it uses them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar, cast

from fastapi import Request
from sqlalchemy.orm import Session

from gateway.streams import Streams
from gateway.watch import Watch
from services.blobs.service import keeper
from services.responses.flights import Responses
from shared.cache import Cache
from shared.db.session import Database
from shared.settings import Settings
from shared.storage import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Edge:
    """Built once, when the process starts."""

    settings: Settings
    database: Database
    store: Store
    cache: Cache
    watch: Watch
    streams: Streams = field(default_factory=Streams)
    responses: Responses = field(init=False)
    threads: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "responses", Responses.of(self.settings, self.cache))
        # As many as there are connections: more would only wait for one, and for the interpreter.
        threads = ThreadPoolExecutor(self.settings.database_pool, thread_name_prefix="edge")
        object.__setattr__(self, "threads", threads)

    @classmethod
    def of(cls, settings: Settings) -> "Edge":
        """Build everything; nothing connects yet."""
        url = settings.database_url.get_secret_value()
        database = Database(url, pool=settings.database_pool, name="modelyard-gateway")
        return cls(
            settings,
            database,
            Store.of(settings, keep=keeper(database, grace_s=settings.blob_grace_s)),
            Cache(settings.cache_url.get_secret_value(), quick_s=settings.cache_timeout_s),
            Watch(url),
        )

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in one of our threads (half the cost of a trip through anyio's)."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    async def transact(self, work: Callable[[Session], T]) -> T:
        """Run `work` in a thread, in one transaction: for routes that wait, which hold no session of their own."""

        def committed() -> T:
            with self.database.transaction() as session:
                return work(session)

        return await self.run(committed)

    def close(self) -> None:
        """Let go of everything; `watch` is stopped by whoever started it."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.cache.close()
        self.database.close()


def edge_of(request: Request) -> Edge:
    """What the process that serves this request holds."""
    return cast("Edge", request.app.state.edge)
