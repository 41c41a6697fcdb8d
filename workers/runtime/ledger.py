"""What attempts write, in groups: at most 64 entries to a commit, one commit at a time of each kind.

An entry waits 20 ms for others to share its commit, or as long as its writer has time.

Every statement carries the attempt, so an entry can be written again when the answer to its commit was lost.
An ending that is then missing from the answer has either happened (the attempt's row says so) or was fenced.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy.orm import Session

from services.jobs import lifecycle, repository
from services.jobs.types import LineRecord
from shared import failpoints
from shared.contracts.jobs import State
from shared.errors import Fenced
from workers.runtime.database import Transactions
from workers.runtime.work import Finish

GROUP = 64
LINGER_S = 0.02

T = TypeVar("T")
R = TypeVar("R")


class Group(Generic[T, R]):
    """Entries that wait for a common commit."""

    def __init__(
        self,
        transactions: Transactions,
        write: Callable[[Session, Sequence[T], bool], Sequence[R]],
        point: str,
        *,
        turn: asyncio.Lock,
    ) -> None:
        self._turn = turn
        self._transactions = transactions
        self._write = write
        self._point = point
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._due = math.inf  #: when the first of those that wait has to be written

    async def put(self, entry: T, *, within_s: float = LINGER_S) -> R:
        """Write an entry with its group, begun `within_s` at the latest; what the commit said about it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((entry, future))
        self._due = min(self._due, loop.time() + within_s)
        if self._writing is None:
            self._schedule(loop)
        return await future

    async def flush(self) -> None:
        """Return when the entries that wait now are written, whether or not their writers still do."""
        for _ in range(len(self._waiting) // GROUP + 2):
            if self._writing is None and self._waiting:
                self._begin()
            if self._writing is None:
                return
            await asyncio.wait([self._writing])

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if len(self._waiting) >= GROUP:
            self._begin()
        elif self._waiting and (self._timer is None or self._timer.when() > self._due):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(self._due, self._begin)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._writing = asyncio.get_running_loop().create_task(self._commit())

    async def _commit(self) -> None:
        batch = self._waiting[:GROUP]
        del self._waiting[:GROUP]
        if not self._waiting:
            self._due = math.inf
        try:
            await self._settle(batch)
        except Exception:  # noqa: BLE001 - one entry that the database refuses must not take the others along
            for single in batch:
                await self._settle_alone(single)
        finally:
            self._writing = None
            self._schedule(asyncio.get_running_loop())

    async def _settle(self, batch: Sequence[tuple[T, asyncio.Future[R]]], *, again: bool = False) -> None:
        entries = [entry for entry, _ in batch]
        async with self._turn:
            answers = await self._transactions.insist(
                lambda session, again: self._write(session, entries, again), again=again
            )
        failpoints.hit(self._point)
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    async def _settle_alone(self, single: tuple[T, asyncio.Future[R]]) -> None:
        try:
            await self._settle([single], again=True)
        except Exception as error:  # noqa: BLE001 - whoever waits for the entry hears of it
            if not single[1].done():
                single[1].set_exception(error)


class Ledger:
    """The two groups of a runner: results of lines, and ends of attempts.

    Ends and claims take turns: both lock their tenants' shares of the queue, and a claim passes over a share that is
    locked, so side by side they would find an empty queue or wait for each other.
    """

    def __init__(self, transactions: Transactions) -> None:
        self.turn = asyncio.Lock()  #: of whoever claims or ends
        self._lines = Group(transactions, _write_lines, "batch.after_commit", turn=asyncio.Lock())
        self._ends = Group(transactions, _write_ends, "finish.after_commit", turn=self.turn)

    async def record(self, line: LineRecord, *, within_s: float = LINGER_S) -> None:
        """Record the result of a line, once; its commit begins `within_s` at the latest.

        Raises:
            Fenced: another attempt owns the job.
        """
        if not await self._lines.put(line, within_s=within_s):
            raise Fenced

    async def flush(self) -> None:
        """Return when the lines given so far are recorded: what was answered outlives a job that is stopped."""
        await self._lines.flush()

    async def end(self, finish: Finish) -> State | None:
        """End an attempt; the job's new state, or None when the attempt was fenced and nothing was written."""
        return await self._ends.put(finish)


def _write_lines(session: Session, lines: Sequence[LineRecord], again: bool) -> list[bool]:  # noqa: FBT001
    del again  # whoever still owns the job has recorded the line, now or before
    owned = lifecycle.record_lines(session, lines)
    return [line.job_id in owned for line in lines]


def _write_ends(session: Session, finishes: Sequence[Finish], again: bool) -> list[State | None]:  # noqa: FBT001
    beats = [finish.beat for finish in finishes if finish.beat is not None]
    if beats:
        lifecycle.beat(session, beats)
    endings = [finish.ending for finish in finishes if _rows_written(session, finish)]
    states = {ended.job_id: ended.state for ended in lifecycle.end(session, endings)} if endings else {}
    found = [states.get(finish.ending.job_id) for finish in finishes]
    if again:
        return [state or _happened(session, finish) for state, finish in zip(found, finishes, strict=True)]
    return found


def _happened(session: Session, finish: Finish) -> State | None:
    """The job's state, if this ending was committed although its answer was lost."""
    tenant_id, ending = finish.tenant_id, finish.ending
    rows = repository.attempts(session, tenant_id, ending.job_id)
    if not any(row.attempt == ending.attempt and row.outcome == ending.outcome for row in rows):
        return None
    job = repository.get(session, tenant_id, ending.job_id)
    return State(job.state) if job else None


def _rows_written(session: Session, finish: Finish) -> bool:
    """Write the rows that belong to an ending; False when its attempt is fenced."""
    if finish.write is None:
        return True
    try:
        with session.begin_nested(), lifecycle.fenced(session, finish.ending.job_id, finish.ending.attempt):
            finish.write(session)
    except Fenced:
        return False
    return True
