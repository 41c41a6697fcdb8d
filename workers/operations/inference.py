"""The `inference` kind: pending lines through an engine, each recorded once; then `results.jsonl`."""

import asyncio
import re
from collections import deque
from typing import Any, Final

from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.inference import results
from services.inference import service as inference
from services.jobs import repository
from services.jobs.types import LineRecord
from shared import failpoints
from shared.contracts.inference import LineOutput, LineUsage
from shared.contracts.jobs import JobError
from shared.storage import SINGLE_PUT_BYTES
from workers.operations.asking import Answered, Asker
from workers.operations.lines import Line, LineCache, Requests
from workers.runtime.engine import Engine
from workers.runtime.host import Host
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.work import Finish, JobFailed, Stop, Work

PAGE: Final = 128  # lines read at once: twice what an engine holds
NOT_STORABLE: Final = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL's jsonb holds neither

Outcome = LineOutput | JobError


async def run(work: Work, host: Host) -> Finish:
    """Run the lines that no attempt has recorded yet, and store the results of all.

    Raises:
        JobFailed: the engine keeps dying, or cannot be started.
        Fenced: another attempt owns the job.
    """
    try:
        await _generate(work, host)
    except EngineFailed as failure:
        raise JobFailed(failure.error, permanent=not failure.error.retryable) from failure
    except asyncio.CancelledError:
        if work.stop is not Stop.DEADLINE or work.claim.parent_id is not None:
            raise
        return await _with_results(work, host)  # what there is, is kept
    if work.claim.parent_id is not None:
        return work.succeeded()  # the lines of all children become one file when the last of them has ended
    return await _with_results(work, host)


async def _generate(work: Work, host: Host) -> None:
    model = await host.transactions.insist(lambda session, _: inference.model_of(session, work.claim))
    requests = Requests(work.claim, model)
    cache = LineCache(host, requests.wish)
    source = _Source(work, host, requests, cache)
    try:
        if not await source.fill():
            return  # all were found in the cache, or the attempt before this one was stopped after its last line
        async with host.engines.use(work, host.served(model), devices=work.claim.devices) as engine:
            await _Lines(work, host, engine, cache).run(source)
    finally:
        await cache.close()


async def _with_results(work: Work, host: Host) -> Finish:
    """Build `results.jsonl` from the recorded lines, and end the job together with the artifact's row."""
    claim = work.claim

    def upload() -> NewArtifact:
        lines = results.stream(host.transactions.database, claim.tenant_id, claim.job_id)
        blob = host.store.put_stream(claim.tenant_id, lines, limit=SINGLE_PUT_BYTES)
        return NewArtifact(name=results.NAME, media_type=results.MEDIA_TYPE, blob=blob)

    new = await host.insist(upload)
    failpoints.hit("finish.after_upload")

    def write(session: Session) -> None:
        artifacts.add(session, new, tenant_id=claim.tenant_id, job_id=claim.job_id, attempt=claim.attempt)

    return work.succeeded(write) if work.stop is None else work.stopped(write)


class _Source:
    """The unfinished lines of a job, in order, a page at a time; those that the cache answers are recorded here."""

    def __init__(self, work: Work, host: Host, requests: Requests, cache: LineCache) -> None:
        self._work = work
        self._host = host
        self._requests = requests
        self._cache = cache
        self._after = -1
        self._page: deque[Line] = deque()
        self._turn = asyncio.Lock()

    async def next(self) -> Line | None:
        """The next line to ask for, or None when there is none left."""
        async with self._turn:
            return self._page.popleft() if self._page or await self.fill() else None

    async def fill(self) -> bool:
        """Read on until there are lines to ask for; whether there are."""
        claim = self._work.claim
        while not self._page:
            rows = await self._host.transactions.insist(
                lambda session, _: repository.pending_lines(
                    session, claim.tenant_id, claim.job_id, after_turn=self._after, limit=PAGE
                )
            )
            if not rows:
                return False
            self._after = rows[-1].turn
            await self._sift([self._requests.line(row) for row in rows])
        return True

    async def _sift(self, lines: list[Line]) -> None:
        """Record what the cache knows, and leave the others to the engine."""
        found = await self._cache.find(lines)
        self._page.extend(line for line in lines if line.number not in found)
        if found:
            records = [_record(self._work, number, _output(stored.json())) for number, stored in found.items()]
            await asyncio.gather(*map(self._host.ledger.record, records))
            self._work.moved = True


class _Lines:
    """The lines of one attempt on their way through an engine."""

    def __init__(self, work: Work, host: Host, engine: Engine, cache: LineCache) -> None:
        self._work = work
        self._host = host
        self._engine = engine
        self._asker = Asker(work, host, engine, cache)

    async def run(self, source: _Source) -> None:
        """Keep the engine's places filled until every line is recorded; when stopped, until it has let go of ours."""
        size = self._asker.places
        # A quarter more than there are places: theirs are taken while the others wait for their commit.
        pumps = [asyncio.create_task(self._pump(source)) for _ in range(min(size + size // 4, self._work.claim.width))]
        try:
            await asyncio.gather(*pumps)
        except BaseException:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            await self._engine.forget_aborted(within_s=self._host.settings.cancel_abort_s)
            raise

    async def _pump(self, source: _Source) -> None:
        while (line := await source.next()) is not None:
            answered = await self._asker.answer(line)
            failpoints.hit("batch.after_compute")
            outcome = _output(answered.body) if answered.status == 200 else _error(answered)
            await self._host.ledger.record(_record(self._work, line.number, outcome))
            self._work.moved = True


def _record(work: Work, number: int, outcome: Outcome) -> LineRecord:
    told = outcome.model_dump(mode="json", exclude_none=True)
    failed = isinstance(outcome, JobError)
    return LineRecord(
        work.id, work.claim.attempt, number, output=None if failed else told, error=told if failed else None
    )


def _output(answer: Any) -> LineOutput:
    choice, usage = answer["choices"][0], answer["usage"]
    text = choice["text"] if "text" in choice else choice["message"]["content"] or ""
    return LineOutput(
        text=NOT_STORABLE.sub("\ufffd", text),
        finish_reason=choice["finish_reason"],
        usage=LineUsage(prompt_tokens=usage["prompt_tokens"], completion_tokens=usage["completion_tokens"]),
    )


def _error(answered: Answered) -> JobError:
    error = answered.error
    return error.model_copy(update={"title": NOT_STORABLE.sub("\ufffd", error.title)})
