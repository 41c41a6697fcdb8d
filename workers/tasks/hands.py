"""A few threads that say how many of them are free, so that no more work is claimed than can be begun."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from shared.telemetry import logger

log = logger(__name__)


class Hands:
    """`count` threads. `freed` is called whenever one has become free."""

    def __init__(self, name: str, count: int, freed: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._free = count
        self._lock = threading.Lock()
        self._freed = freed

    @property
    def free(self) -> int:
        """How many pieces of work can begin now."""
        with self._lock:
            return self._free

    def take(self, work: Callable[[], object]) -> None:
        """Do `work` in a thread. What it raises is logged."""
        with self._lock:
            self._free -= 1
        self._pool.submit(self._do, work)

    def rest(self) -> None:
        """Wait until everything taken is done, and take nothing more."""
        self._pool.shutdown(wait=True)

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            log.exception("courier.work_failed")
        finally:
            with self._lock:
                self._free += 1
            self._freed()
