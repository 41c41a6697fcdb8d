"""Pending lines of a job through an engine, each recorded once: what all kinds that have lines share."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from services.inference.service import ServedModel
from services.jobs import repository
from services.jobs.types import LineRecord
from services.responses.keys import PLAIN
from shared import failpoints
from shared.contracts.caching import CacheWish
from shared.contracts.serving import Mode
from shared.db.models import JobItem
from workers.operations.asking import Answered, Asker
from workers.operations.lines import Line, LineCache
from workers.operations.storable import told
from workers.runtime.engine import Engine
from workers.runtime.host import Host
from workers.runtime.ledger import LINGER_S
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.work import JobFailed, Work

PAGE: Final = 128  # lines read at once: twice what an engine holds
#: of each place of the engine, so many lines are on their way: one in it, the others wait for it or for their commit
DEPTH: Final = 3
PATIENCE_S: Final = 0.5  # of a result, while lines are left to be read: fewer commits, each as much work as 5 lines
ANSWERS: Final = 1024  # texts or vectors of one attempt in memory at once: 130 MB of a vector's 4096 numbers


@dataclass(frozen=True)
class Result:
    """What is recorded of a line: exactly one of the two."""

    output: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


class Form(Protocol):
    """How one kind of job writes its lines and their results."""

    def line(self, item: JobItem) -> Line | Result:
        """The request that a line is; a result when it cannot be one."""
        ...

    def result(self, line: Line, answered: Answered) -> Result:
        """What is recorded of an answer."""
        ...


async def generate(
    work: Work, host: Host, form: Form, *, model: ServedModel, wish: CacheWish = PLAIN, mode: Mode = Mode.GENERATE
) -> None:
    """Run the lines that no attempt has recorded yet, and record each.

    Raises:
        JobFailed: the engine keeps dying, or cannot be started.
        Fenced: another attempt owns the job.
    """
    cache = LineCache(host, wish)
    source = _Source(work, host, form, cache)
    try:
        if not await source.fill():
            return  # none of them needs an engine, or the attempt before was stopped after its last line
        async with host.engines.use(work, host.served(model), devices=work.claim.devices, mode=mode) as engine:
            await _Lines(work, host, engine, source=source, form=form, cache=cache).run()
    except EngineFailed as failure:
        raise JobFailed(failure.error, permanent=not failure.error.retryable) from failure
    finally:
        await cache.close()


class _Source:
    """The unfinished lines of a job, in its order, a page at a time; those that need no engine are recorded here."""

    def __init__(self, work: Work, host: Host, form: Form, cache: LineCache) -> None:
        self._work = work
        self._host = host
        self._form = form
        self._cache = cache
        self._after = -1
        self.dry = False  #: every line has been read
        self._page: deque[Line] = deque()
        self._turn = asyncio.Lock()

    async def next(self) -> Line | None:
        """The next line to ask for, or None when there is none left."""
        if self._page:
            return self._page.popleft()
        async with self._turn:
            return self._page.popleft() if self._page or await self.fill() else None

    async def fill(self) -> bool:
        """Read on until there are lines to ask for; whether there are."""
        claim = self._work.claim
        while not (self._page or self.dry):
            rows = await self._host.transactions.insist(
                lambda session, _: repository.pending_lines(
                    session, claim.tenant_id, claim.job_id, after_turn=self._after, limit=PAGE
                )
            )
            self.dry = len(rows) < PAGE
            if rows:
                self._after = rows[-1].turn
                await self._sift(rows)
        return bool(self._page)

    async def _sift(self, rows: Sequence[JobItem]) -> None:
        """Record what is no request and what the cache knows, and leave the others to the engine."""
        made = {row.line_no: self._form.line(row) for row in rows}
        lines = [line for line in made.values() if isinstance(line, Line)]
        found = await self._cache.find(lines)
        results = {number: result for number, result in made.items() if isinstance(result, Result)}
        for line in lines:
            answer = told(found[line.number].body) if line.number in found else None
            if answer is None:
                self._page.append(line)
            else:
                results[line.number] = self._form.result(line, Answered(200, answer, fresh=False))
        if results:
            await asyncio.gather(*(record(self._work, self._host, *each) for each in results.items()))


class _Lines:
    """The lines of one attempt on their way through an engine."""

    def __init__(
        self, work: Work, host: Host, engine: Engine, *, source: _Source, form: Form, cache: LineCache
    ) -> None:
        self._work = work
        self._host = host
        self._engine = engine
        self._source = source
        self._form = form
        self._asker = Asker(work, host, engine, cache)
        self._gate = _Gate(ANSWERS)

    async def run(self) -> None:
        """Keep the engine's places filled until every line is recorded; when stopped, until it has let go of ours."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(DEPTH * self._asker.places, self._work.claim.width)):
                    group.create_task(self._pump(group))
        except BaseException as failure:
            await self._host.ledger.flush()
            await self._engine.forget_aborted(within_s=self._host.settings.cancel_abort_s)
            if isinstance(failure, BaseExceptionGroup):
                raise failure.exceptions[0] from None  # the first one stopped the others
            raise

    async def _pump(self, group: asyncio.TaskGroup) -> None:
        while (line := await self._source.next()) is not None:
            if self._asker.knows(line):
                group.create_task(self._finish(line))  # a run of equal lines must not hold up those behind it
            else:
                await self._finish(line)

    async def _finish(self, line: Line) -> None:
        async with self._gate.hold(line.answers):
            answered = await self._asker.answer(line)
            failpoints.hit("batch.after_compute")
            result = self._form.result(line, answered)
            within_s = LINGER_S if self._source.dry else PATIENCE_S
            await record(self._work, self._host, line.number, result, within_s=within_s)


class _Gate:
    """So much may be held at once, in turn; whatever is larger is held alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = 0
        self._turn = asyncio.Lock()
        self._left = asyncio.Event()

    @asynccontextmanager
    async def hold(self, amount: int) -> AsyncIterator[None]:
        """Hold so much for the length of the block."""
        if self._turn.locked() or not self._fits(amount):
            async with self._turn:
                while not self._fits(amount):
                    self._left.clear()
                    await self._left.wait()
        self._held += amount
        try:
            yield
        finally:
            self._held -= amount
            self._left.set()

    def _fits(self, amount: int) -> bool:
        return not self._held or self._held + amount <= self._size


async def record(work: Work, host: Host, number: int, result: Result, *, within_s: float = LINGER_S) -> None:
    """Record the result of a line, once.

    Raises:
        Fenced: another attempt owns the job.
    """
    line = LineRecord(work.id, work.claim.attempt, number, output=result.output, error=result.error)
    await host.ledger.record(line, within_s=within_s)
    work.moved = True
