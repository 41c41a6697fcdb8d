"""The `inference` kind: pending lines through an engine, each recorded once; then `results.jsonl`."""

import asyncio
import hashlib
import re
from collections import deque
from functools import partial
from typing import Any, Final

import orjson
from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.catalog.files import materialise
from services.inference import results
from services.inference import service as inference
from services.jobs import repository
from services.jobs.types import LineRecord
from shared import failpoints
from shared.contracts.inference import LineOutput, LineUsage
from shared.contracts.jobs import JobError
from shared.db.models import JobItem
from shared.storage import SINGLE_PUT_BYTES
from workers.runtime.client import Reply
from workers.runtime.engine import Engine, ServedModel
from workers.runtime.engine_process import EngineFailed
from workers.runtime.host import Host
from workers.runtime.work import Finish, JobFailed, Stop, Work

PAGE: Final = 128  # lines read at once: twice what an engine holds
SENT: Final = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "ignore_eos")  # fields of a request
BROKEN_TRIES: Final = 3  # of a line that the engine answers with a 5xx
NOT_STORABLE: Final = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL's jsonb holds neither
REFUSED: Final = (401, 404)  # answers that say something about the engine, not about the line

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
    source = _Source(work, host)
    if not await source.fill():
        return  # an attempt before this one was stopped between its last line and its end
    model = await host.transactions.insist(lambda session, _: inference.model_of(session, work.claim))
    fetch = partial(materialise, host.store, model.tenant_id, model.manifest, host.folders.models)
    served = ServedModel(digest=model.digest, name=model.name, fetch=fetch)
    async with host.engines.use(work, served, devices=work.claim.devices) as engine:
        await _Lines(work, host, engine).run(source)


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
    """The unfinished lines of a job, in order, a page at a time."""

    def __init__(self, work: Work, host: Host) -> None:
        self._claim = work.claim
        self._host = host
        self._after = -1
        self._page: deque[JobItem] = deque()
        self._turn = asyncio.Lock()

    async def next(self) -> JobItem | None:
        """The next line, or None when there is none left."""
        async with self._turn:
            return self._page.popleft() if self._page or await self.fill() else None

    async def fill(self) -> bool:
        """Read a page; whether there was one."""
        rows = await self._host.transactions.insist(
            lambda session, _: repository.lines(
                session, self._claim.tenant_id, self._claim.job_id, after=self._after, limit=PAGE, pending=True
            )
        )
        if rows:
            self._after = rows[-1].line_no
            self._page.extend(rows)
        return bool(rows)


class _Lines:
    """The lines of one attempt on their way through an engine."""

    def __init__(self, work: Work, host: Host, engine: Engine) -> None:
        self._work = work
        self._host = host
        self._engine = engine
        spec = work.claim.spec
        self._wishes = {name: spec[name] for name in SENT if spec.get(name) is not None}
        self._repeats = spec.get("temperature") == 0 or spec.get("seed") is not None
        self._twins: dict[bytes, asyncio.Future[Outcome]] = {}

    async def run(self, source: _Source) -> None:
        """Keep the engine's places filled until every line is recorded; when stopped, until it has let go of ours."""
        size = self._engine.lane.size
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
        while (item := await source.next()) is not None:
            outcome = await (self._once(item) if self._repeats else self._ask(item))
            failpoints.hit("batch.after_compute")
            await self._host.ledger.record(self._record(item, outcome))
            self._work.moved = True

    async def _once(self, item: JobItem) -> Outcome:
        """The answer of identical lines, asked for once: these wishes give the same text every time."""
        key = hashlib.sha256(orjson.dumps(item.input, option=orjson.OPT_SORT_KEYS)).digest()
        if key in self._twins:
            return await asyncio.shield(self._twins[key])
        self._twins[key] = asyncio.ensure_future(self._ask(item))
        try:
            return await self._twins[key]
        except BaseException:
            self._twins.pop(key).cancel()
            raise

    async def _ask(self, item: JobItem) -> Outcome:
        """What the engine says to a line. Raises EngineFailed."""
        path = "/v1/completions" if "prompt" in item.input else "/v1/chat/completions"
        body = {"model": self._engine.model.digest, **self._wishes, **item.input}
        for _ in range(BROKEN_TRIES):
            reply = await self._engine.ask(self._work, path, body)
            if reply.status == 200:
                return _output(reply)
            if reply.status in REFUSED:
                raise EngineFailed(_error(reply))
            if reply.status < 500:
                break
        return _error(reply)

    def _record(self, item: JobItem, outcome: Outcome) -> LineRecord:
        told = outcome.model_dump(mode="json", exclude_none=True)
        failed = isinstance(outcome, JobError)
        return LineRecord(
            self._work.id,
            self._work.claim.attempt,
            item.line_no,
            output=None if failed else told,
            error=told if failed else None,
        )


def _output(reply: Reply) -> LineOutput:
    answer: Any = reply.json()
    choice, usage = answer["choices"][0], answer["usage"]
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    return LineOutput(
        text=NOT_STORABLE.sub("\ufffd", text),
        finish_reason=choice["finish_reason"],
        usage=LineUsage(prompt_tokens=usage["prompt_tokens"], completion_tokens=usage["completion_tokens"]),
    )


def _error(reply: Reply) -> JobError:
    told = reply.json().get("error", {})
    title = NOT_STORABLE.sub("\ufffd", told.get("message") or "The engine refused the line")
    return JobError(code=told.get("code") or "engine_error", title=title, retryable=reply.status >= 500)
