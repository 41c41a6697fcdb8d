"""Rows of calls: written in groups while the engines already work, ended in groups, kept alive by one statement.

A group of begins goes as soon as none is in work: who comes meanwhile is in the next one. Ends wait up to `END_S` for
company. A database that is away makes begins fail and ends wait.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

from gateway.edge import Edge
from services.jobs import lifecycle
from services.jobs.types import Ending, Placed
from shared.errors import DatabaseUnavailable
from shared.ids import new_id
from shared.telemetry import logger

GROUP: Final = 64
BEGINS: Final = 2  #: groups of begins in work at once
END_S: Final = 0.02
AGAIN_S: Final = 1.0  #: before ends are written again when the database was away
KEPT: Final = 10_000  #: ends that wait for a database; older ones are left to the reaper

log = logger(__name__)


class Ledger:
    """The rows of one process's calls. Used on its loop; SQL runs in the edge's threads."""

    def __init__(self, edge: Edge, *, cancel: Callable[[UUID], None]) -> None:
        self.owner = new_id()
        self._edge = edge
        self._cancel = cancel
        self._begins: list[tuple[Placed, asyncio.Future[None]]] = []
        self._in_work = 0
        self._ends: list[Ending] = []
        self._ending: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self._looked_for = asyncio.Event()
        self._alive: set[UUID] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def start(self) -> None:
        """Begin to renew leases and to write ends."""
        self._spawn(self._beat())
        self._ending = asyncio.create_task(self._write_ends())

    async def stop(self) -> None:
        """Write what is left."""
        self._stopping = True
        self._due.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *filter(None, [self._ending]), return_exceptions=True)

    def look(self) -> None:
        """See now whether somebody wants a call cancelled."""
        self._looked_for.set()

    def begin(self, call: Placed) -> asyncio.Future[None]:
        """Write a call's row; done when it is committed. Raises (there) DatabaseUnavailable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begins.append((call, done))
        if self._in_work < (BEGINS if len(self._begins) >= GROUP else 1):
            self._in_work += 1
            self._spawn(self._write_begins())
        return done

    def end(self, ending: Ending, *, begun: asyncio.Future[None]) -> None:
        """Write a call's end once its row is there. Returns at once."""
        begun.add_done_callback(lambda done: self._add_end(ending, done))

    def _add_end(self, ending: Ending, begun: asyncio.Future[None]) -> None:
        self._alive.discard(ending.job_id)
        if not begun.cancelled() and begun.exception() is None:
            self._ends.append(ending)
            self._due.set()

    async def _write_begins(self) -> None:
        try:
            while self._begins:
                group, self._begins = self._begins[:GROUP], self._begins[GROUP:]
                calls = [call for call, _ in group]
                self._alive.update(call.id for call in calls)
                error = await self._written(calls)
                for call, done in group:
                    if error is not None:
                        self._alive.discard(call.id)
                    if done.done():
                        continue
                    if error is None:
                        done.set_result(None)
                    else:
                        done.set_exception(error)
        finally:
            self._in_work -= 1

    async def _written(self, calls: Sequence[Placed]) -> Exception | None:
        try:
            await self._edge.transact(lambda session: lifecycle.place(session, calls, owner=self.owner))
        except Exception as error:  # noqa: BLE001 - each of the group raises it
            return error
        return None

    async def _write_ends(self) -> None:
        while True:
            await self._due.wait()
            if not self._stopping:
                await asyncio.sleep(END_S if len(self._ends) < GROUP else 0)
            self._due.clear()
            while self._ends:
                group, self._ends = self._ends[:GROUP], self._ends[GROUP:]
                try:
                    await self._edge.transact(partial(lifecycle.end, endings=group))
                except DatabaseUnavailable:
                    self._ends = (group + self._ends)[-KEPT:]
                    if self._stopping:
                        return  # their leases run out
                    await asyncio.sleep(AGAIN_S)
                except Exception:
                    log.exception("calls were not ended", extra={"calls": len(group)})
            if self._stopping:
                return

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._looked_for.wait(), self._edge.settings.heartbeat_s)
            self._looked_for.clear()
            calls = list(self._alive)
            if not calls:
                continue
            try:
                asked = await self._edge.transact(partial(lifecycle.renew, owner=self.owner, calls=calls))
            except DatabaseUnavailable:
                continue
            except Exception:
                log.exception("leases of calls were not renewed")
                continue
            for job in asked:
                self._cancel(job)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
