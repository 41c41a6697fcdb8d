"""The `document_set` kind: pending documents read and asked about, each recorded once."""

from pathlib import Path

from services.documents import service as documents
from services.documents.operations import LEAST, Budget, empty_prompt, task_of
from services.inference import service as inference
from services.jobs import repository
from shared.blobs import BlobCorrupt, BlobMissing
from shared.contracts.documents import FILES, DocumentInput, DocumentSetSpec
from shared.contracts.jobs import JobError
from shared.db.models import JobItem
from workers.operations.documents_asking import Desk
from workers.operations.documents_dialogue import together
from workers.operations.documents_pipeline import Pipeline
from workers.operations.documents_shared import chunker, shelf
from workers.operations.pumping import record
from workers.runtime import scratch
from workers.runtime.host import Host
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.work import Finish, JobFailed, Work


async def run(work: Work, host: Host) -> Finish:
    """Read the documents that no attempt has recorded yet. Their tables are made when the whole set has ended.

    Raises:
        JobFailed: the engine keeps dying, or cannot be started; or the model cannot be asked such questions.
        Fenced: another attempt owns the job.
    """
    folder = host.folders.attempt(work.id, work.claim.attempt)
    try:
        await host.blocking(lambda: scratch.claim(folder))
        await _read(work, host, folder)
    except EngineFailed as failure:
        raise JobFailed(failure.error, permanent=not failure.error.retryable) from failure
    except (BlobMissing, BlobCorrupt) as error:  # of the tokenizer: a document's own is an error of that document
        told = JobError(code=error.code, title=error.message, retryable=error.retryable)
        raise JobFailed(told, permanent=not error.retryable) from error
    finally:
        await scratch.discard(folder)
    return work.succeeded()


async def _read(work: Work, host: Host, folder: Path) -> None:
    claim = work.claim
    spec, model, items = await host.transactions.insist(
        lambda session, _: (
            documents.spec_of(session, claim),
            inference.model_of(session, claim),
            repository.pending_lines(session, claim.tenant_id, claim.job_id, limit=FILES),
        )
    )
    task = await host.blocking(lambda: task_of(spec, context=model.context))
    cutting = await chunker(host, model)
    prompt = await host.blocking(lambda: cutting.count(empty_prompt(task)))
    budget = _budget(spec, context=model.context, prompt=prompt)
    async with shelf(host) as shared, Desk(work, host, model=model, spec=spec) as desk:
        pipeline = Pipeline(
            work,
            host,
            task=task,
            desk=desk,
            shelf=shared,
            chunker=cutting,
            budget=budget,
            chunking=spec.chunking,
        )
        await together(_one(pipeline, item, folder / str(item.line_no)) for item in items)


def _budget(spec: DocumentSetSpec, *, context: int, prompt: int) -> Budget:
    """The budget by the model's own tokens, where the request's was by a guess."""
    budget = Budget(context=context, prompt=prompt, answer=spec.max_tokens)
    if budget.room < LEAST:
        title = f"The prompt takes {prompt} of the model's {context} tokens: there is no room for a document"
        raise JobFailed(JobError(code="context_length_exceeded", title=title), permanent=True)
    return budget


async def _one(pipeline: Pipeline, item: JobItem, path: Path) -> None:
    result = await pipeline.run(DocumentInput.model_validate(item.input), path)
    await record(pipeline.work, pipeline.host, item.line_no, result)
