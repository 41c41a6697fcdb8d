"""Control tasks: what the courier does for a job outside any queue (`expand` a file, `merge` lines, `plan` a late job).

A handler is `<module of the job's kind>.<task's kind>(context, task)`, or stands in a module for jobs of every kind. It
opens its own transactions, and may run twice: its effect must be the same as of running once. When it returns, the task
is removed; when it raises, the task is tried again, with growing pauses.
"""

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from uuid import UUID

from shared import failpoints
from shared.clock import monotonic
from shared.db.session import Database
from shared.errors import ModelyardError
from shared.settings import settings
from shared.storage import Store
from shared.telemetry import logger
from workers.tasks import repository
from workers.tasks.repository import Task

LEASE_S = 15.0  # what the task of a killed courier waits for the next one
RENEW_S = LEASE_S / 3

log = logger(__name__)

#: job kind → module whose functions are named after the tasks' kinds; paths, so that a kind loads when it is needed
MODULES: Mapping[str, str] = {
    "batch": "workers.tasks.batch",
    "document_set": "workers.tasks.document_set",
    "inference": "workers.tasks.inference",
}
#: task's kind → module that does it for jobs of every kind
ANY: Mapping[str, str] = {"plan": "workers.tasks.late"}


@dataclass(frozen=True)
class Context:
    """What a handler works with."""

    database: Database
    store: Store


Handler = Callable[[Context, Task], None]
FindHandler = Callable[[Task], Handler]


def handler(task: Task) -> Handler:
    """The function that does a task.

    Raises:
        LookupError: nobody does tasks of this kind for jobs of that kind.
    """
    path = ANY.get(task.kind) or MODULES.get(task.job_kind)
    if path is None:
        raise LookupError(f"no module for control tasks of kind {task.job_kind!r}")
    found: Handler | None = getattr(import_module(path), task.kind, None)
    if found is None:
        raise LookupError(f"{path} has no {task.kind!r}")
    return found


class Tasks:
    """Control tasks of this process: claimed, held while they are worked on, removed or given back."""

    def __init__(self, context: Context, *, find: FindHandler = handler) -> None:
        self._context = context
        self._find = find
        self._held: set[UUID] = set()
        self._lock = threading.Lock()
        self._renewed_at = monotonic()

    def claim(self, *, limit: int) -> list[Task]:
        """Take up to `limit` due tasks, and renew the hold on those taken before.

        Raises:
            DatabaseUnavailable: the database cannot be asked.
        """
        with self._lock:
            held = list(self._held) if monotonic() - self._renewed_at >= RENEW_S else []
        if not held and not limit:
            return []
        with self._context.database.transaction() as session:
            if held:
                repository.renew(session, held, lease_s=LEASE_S)
                self._renewed_at = monotonic()
            tasks = repository.claim(session, limit=limit, lease_s=LEASE_S)
        with self._lock:
            self._held |= {task.id for task in tasks}
        return tasks

    def work(self, task: Task) -> None:
        """Do one claimed task.

        Raises:
            DatabaseUnavailable: what became of it could not be recorded; it is done again when its lease is
            over.
        """
        try:
            self._find(task)(self._context, task)
            failpoints.hit("control.after_work")
            with self._context.database.transaction() as session:
                repository.finish(session, task)
            log.info("control.done", extra={"task": task.kind, "job": task.job_id, "try": task.tries})
        except Exception as error:
            log.exception("control.failed", extra={"task": task.kind, "job": task.job_id, "try": task.tries})
            self._give_back(task, error)
        finally:
            with self._lock:
                self._held.discard(task.id)

    def _give_back(self, task: Task, error: Exception) -> None:
        longest = settings().retry_max_s
        delay_s = min(longest, settings().retry_base_s * 2 ** min(task.tries - 1, 16)) * random.uniform(1, 1.25)
        told = {"code": error.code if isinstance(error, ModelyardError) else type(error).__name__}
        with self._context.database.transaction() as session:
            repository.fail(session, task, error=told, delay_s=delay_s)
