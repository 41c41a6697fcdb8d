"""What engines took the last time: read before one is placed, written when one is ready."""

import asyncio

from services.workers import service as workers
from services.workers.types import Measure
from shared.errors import DatabaseUnavailable
from workers.runtime.database import Transactions

Key = tuple[str, str, int]


class Measures:
    """The measures of this worker's class. Used on the runner's loop."""

    def __init__(self, transactions: Transactions, *, gpu_class: str) -> None:
        self._transactions = transactions
        self._class = gpu_class
        self._known: dict[Key, Measure] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def recall(self, digest: str, *, kind: str, ranks: int) -> Measure | None:
        """The last measure; None when there is none, or nobody can be asked."""
        key = (digest, kind, ranks)
        if key not in self._known:
            try:
                found = await self._transactions.run(
                    lambda session: workers.measured(
                        session, digest, gpu_class=self._class, kind=kind, tensor_parallel=ranks
                    )
                )
            except DatabaseUnavailable:
                return None
            if found is None:
                return None
            self._known[key] = found
        return self._known[key]

    def keep(self, digest: str, *, kind: str, ranks: int, load_s: float, memory_bytes: int) -> None:
        """Remember a measure, and write it as soon as the database answers."""
        measure = Measure(digest, self._class, kind, ranks, round(load_s, 3), memory_bytes)
        if measure == self._known.get((digest, kind, ranks)):
            return
        self._known[digest, kind, ranks] = measure
        writing = asyncio.create_task(self._write(measure))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    async def _write(self, measure: Measure) -> None:
        await self._transactions.insist(lambda session, _: workers.remember(session, measure))
