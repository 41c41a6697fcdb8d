"""Batches: OpenAI's object over a parent job. Nothing here commits."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.orm import Session

from services.batches import repository
from services.batches.paging import pages
from services.files import service as files
from services.files.service import Purpose, Wish
from services.jobs import service as job_service
from services.jobs.kinds import Prepared
from services.jobs.service import Submitted
from shared.contracts.batches import FILE_BYTES, WINDOWS, BatchSpec, unknown_in
from shared.contracts.jobs import State
from shared.db.models import BatchJob, Job
from shared.db.session import Database
from shared.errors import Conflict, InvalidField, NotFinished, NotFound
from shared.ids import prefixed
from shared.storage import Blob, Store

KIND = "batch"
PREFIX = "batch_"


class NothingToRetry(Conflict):
    """No line of the batch has failed."""

    code = "nothing_to_retry"


class BadInputFile(Conflict):
    """The batch's input file cannot be used: upload one that can, and create another batch."""

    code = "bad_input_file"


def prepare(session: Session, tenant_id: UUID, spec: BatchSpec) -> Prepared:
    """Find the file. Its lines, and with them the models and what they need, are read by the courier.

    Raises:
        InvalidField: `spec.input_file_id` names no file of the tenant, or one of another purpose.
    """
    param = "spec.input_file_id"
    try:
        file = files.get(session, tenant_id, spec.input_file_id, param=param)
    except NotFound as error:
        raise InvalidField(error.message, param=param) from error
    if file.purpose != Purpose.BATCH:
        raise InvalidField(f"The file's purpose is {file.purpose}; a batch needs {Purpose.BATCH}.", param=param)

    def extend(session: Session, job_id: UUID) -> None:
        session.add(
            BatchJob(
                job_id=job_id,
                tenant_id=tenant_id,
                input_file_id=file.id,
                endpoint=spec.endpoint,
                completion_window=spec.completion_window,
                output_expires_s=spec.output_expires_s,
            )
        )

    return Prepared(
        spec=spec.model_dump(mode="json"),
        needs=None,
        planned_gpu_s=0.0,
        expand=True,
        extend=extend,
        deadline_s=WINDOWS[spec.completion_window],
    )


def public_id(job_id: UUID) -> str:
    """The id that callers see: `batch_` and 32 hex digits."""
    return prefixed(PREFIX, job_id)


def job_of(session: Session, tenant_id: UUID, batch_id: str) -> Job:
    """The job of a batch's public id.

    Raises:
        NotFound: the tenant has no batch of that id.
    """
    return job_service.parent_of(session, tenant_id, batch_id, prefix=PREFIX, kind=KIND)


def cancel(session: Session, tenant_id: UUID, batch_id: str) -> Job:
    """Stop a batch: what is answered is kept. One that has ended stays as it is.

    Raises:
        NotFound: the tenant has no batch of that id.
    """
    return job_service.cancel(session, tenant_id, job_of(session, tenant_id, batch_id).id)


def retriable(session: Session, tenant_id: UUID, batch_id: str) -> Job:
    """A batch that has ended with lines that have no answer.

    Raises:
        NotFound: the tenant has no batch of that id.
        NotFinished, NothingToRetry, BadInputFile: there is nothing to run again, or not yet.
    """
    job = job_of(session, tenant_id, batch_id)
    if not State(job.state).terminal:
        raise NotFinished("The batch has not finished yet.")
    row = repository.of_jobs(session, tenant_id, [job.id])[job.id]
    if row.errors is not None:
        raise BadInputFile
    if row.total and not row.failed:
        raise NothingToRetry
    return job


def undone(store: Store, database: Database, old: Job) -> Blob | None:
    """Store an input file of the lines of `old`, as `retriable` returned it, that failed or were never run, in order.

    None when it was stopped before its file was read. Call it with no transaction open.

    Raises:
        TooLarge: in our spelling the lines are larger than a batch's file may be.
        StoreUnavailable, DatabaseUnavailable: nothing was stored.
    """
    with database.transaction() as session:
        parts = repository.parts(session, old.tenant_id, old.id)
    if not parts:
        return None
    lines = _undone(database, parts, total=old.progress_total or 0, endpoint=old.spec["endpoint"])
    return store.put_stream(old.tenant_id, lines, limit=FILE_BYTES)


def retry(session: Session, old: Job, lines: Blob | None) -> Submitted:
    """A new batch of these lines of `old`, or of the whole file where that was never read.

    Raises:
        InvalidField: the file was never read, and is gone now.
    """
    spec = old.spec
    if lines is not None:
        wish = Wish.of(f"{public_id(old.id)}_retry.jsonl", Purpose.BATCH, None)
        file = files.add(session, old.tenant_id, wish, blob=lines)
        spec = spec | {"input_file_id": files.public_id(file)}
    return job_service.retry(session, old.tenant_id, old.id, spec=spec)


def _undone(database: Database, parts: list[UUID], *, total: int, endpoint: str) -> Iterator[bytes]:
    """An input file of the lines that have no answer, a page at a time."""
    for rows in pages(database, parts, total=total, sizes=repository.undone_sizes, lines=repository.undone):
        yield b"".join(_line(row.custom_id, row.input, endpoint) for row in rows)


def _line(custom_id: str, stored: dict[str, Any], endpoint: str) -> bytes:
    unknown = unknown_in(stored)
    body = stored if unknown is None else unknown[1]
    line = {"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
