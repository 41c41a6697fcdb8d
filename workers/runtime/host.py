"""What an operation may use of its worker."""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from services.inference.service import ServedModel as StoredModel
from shared.cache import Cache
from shared.errors import Unavailable
from shared.settings import Settings
from shared.storage import Store
from shared.telemetry import logger
from workers.runtime.database import Transactions
from workers.runtime.devices import Devices
from workers.runtime.engines import Engines
from workers.runtime.folders import Folders
from workers.runtime.ledger import Ledger
from workers.runtime.served import ServedModel, served

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
CACHE_S = 1.0  # nobody watches a worker wait for its cache

T = TypeVar("T")
log = logger(__name__)


@dataclass(frozen=True)
class Host:
    """The runner's parts."""

    settings: Settings
    folders: Folders
    store: Store
    transactions: Transactions
    ledger: Ledger
    devices: Devices
    engines: Engines
    hurried: asyncio.Event = field(default_factory=asyncio.Event)  #: a second SIGTERM: no more grace
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, thread_name_prefix="files"))
    cache: Cache = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", Cache(self.settings.cache_url.get_secret_value(), quick_s=CACHE_S))

    def served(self, model: StoredModel) -> ServedModel:
        """A stored model as engines know it."""
        return served(model, store=self.store, models=self.folders.models)

    async def blocking(self, work: Callable[[], T]) -> T:
        """What `work` returns, from a thread: files, digests, the object store."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    async def insist(self, work: Callable[[], T]) -> T:
        """As `blocking`, tried until the stores answer; the job's heartbeats go on meanwhile."""
        wait = FIRST_WAIT_S
        while True:
            try:
                return await self.blocking(work)
            except Unavailable as error:
                log.warning("a store is away", extra={"code": error.code, "retry_in_s": wait})
            await asyncio.sleep(wait * (0.5 + random.random()))
            wait = min(LONGEST_WAIT_S, wait * 2)
