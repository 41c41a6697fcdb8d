"""SQL from the runner's loop: a transaction in a thread, tried again for as long as PostgreSQL is away."""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy.orm import Session

from shared.db.session import Database
from shared.errors import DatabaseUnavailable
from shared.telemetry import logger

THREADS = 6  # claim ×2, lines, endings, heartbeat, and one for the rest
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0

T = TypeVar("T")
log = logger(__name__)


class Transactions:
    """Runs functions of a session, each in its own transaction and off the loop."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sql")

    async def run(self, work: Callable[[Session], T]) -> T:
        """What `work` returns, once it is committed.

        Raises:
            DatabaseUnavailable: the transaction may or may not have happened.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._transact, work)

    async def insist(self, work: Callable[[Session, bool], T], *, again: bool = False) -> T:
        """As `run`, tried until the database answers; `work` is told whether an earlier try may have happened."""
        wait = FIRST_WAIT_S
        while True:
            try:
                return await self.run(lambda session, again=again: work(session, again))  # type: ignore[misc]
            except DatabaseUnavailable:
                log.warning("database is away", extra={"retry_in_s": wait})
                again = True
            await asyncio.sleep(wait * (0.5 + random.random()))
            wait = min(LONGEST_WAIT_S, wait * 2)

    def close(self, *, wait: bool) -> None:
        """Close the pool, once what runs is done; without `wait`, at once."""
        self._threads.shutdown(wait=wait, cancel_futures=True)
        self.database.close()

    def _transact(self, work: Callable[[Session], T]) -> T:
        with self.database.transaction() as session:
            return work(session)
