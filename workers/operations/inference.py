"""The `inference` kind: pending lines through an engine, each recorded once; then `results.jsonl`."""

import asyncio
from typing import Final

from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.inference import results
from services.inference import service as inference
from shared import failpoints
from shared.contracts.inference import LineOutput, LineUsage
from shared.db.models import JobItem
from shared.storage import SINGLE_PUT_BYTES
from workers.operations.asking import Answered
from workers.operations.lines import Line, Requests
from workers.operations.pumping import Result, generate
from workers.runtime.host import Host
from workers.runtime.work import Finish, Stop, Work

KEEPING: Final = (Stop.DEADLINE, Stop.CANCEL)  # what there is of the results by then is kept


async def run(work: Work, host: Host) -> Finish:
    """Run the lines that no attempt has recorded yet, and store the results of all.

    Raises:
        JobFailed: the engine keeps dying, or cannot be started.
        Fenced: another attempt owns the job.
    """
    try:
        await _generate(work, host)
        if work.claim.parent_id is not None:
            return work.succeeded()  # the lines of all children become one file when the last of them has ended
        return await _with_results(work, host)
    except asyncio.CancelledError:
        if work.stop not in KEEPING or work.claim.parent_id is not None:
            raise
    return await _what_there_is(work, host)


async def _generate(work: Work, host: Host) -> None:
    model = await host.transactions.insist(lambda session, _: inference.model_of(session, work.claim))
    requests = Requests(work.claim, model)
    await generate(work, host, _Texts(requests), model=model, wish=requests.wish)


async def _what_there_is(work: Work, host: Host) -> Finish:
    """The end of work that was stopped. Who cancels does not wait for a store that is away: the lines stay."""
    try:
        async with asyncio.timeout(host.settings.cancel_abort_s if work.stop is Stop.CANCEL else None):
            return await _with_results(work, host)
    except TimeoutError:
        return work.stopped()


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


class _Texts:
    """Prompts and chats in, texts out."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def line(self, item: JobItem) -> Line:
        return self._requests.line(item)

    def result(self, line: Line, answered: Answered) -> Result:  # noqa: ARG002 - the answer says it all
        if answered.status != 200:
            return Result(error=answered.error.model_dump(mode="json", exclude_none=True))
        choice, usage = answered.body["choices"][0], answered.body["usage"]
        text = choice["text"] if "text" in choice else choice["message"]["content"] or ""
        output = LineOutput(
            text=text,
            finish_reason=choice["finish_reason"],
            usage=LineUsage(prompt_tokens=usage["prompt_tokens"], completion_tokens=usage["completion_tokens"]),
        )
        return Result(output=output.model_dump(mode="json"))
