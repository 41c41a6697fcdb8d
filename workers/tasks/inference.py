"""The courier's part of inference: a file becomes child jobs, their lines become one result.

Both may run twice, and do the same as once: everything that a run writes is one transaction, guarded by the
parent's state.
"""

import tempfile
from itertools import islice
from pathlib import Path

from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.inference import input as source
from services.inference import repository as inference_sql
from services.inference import results
from services.inference import service as inference
from services.inference.input import BadInput
from services.jobs import lifecycle
from services.jobs import repository as jobs
from services.jobs import service as job_service
from shared.contracts.jobs import JobError
from shared.storage import Blob, BlobCorrupt, BlobMissing
from shared.telemetry import logger
from workers.tasks import families
from workers.tasks.control import Context
from workers.tasks.repository import Task

RESULT_BYTES = 64 * 1024**3  #: of one results.jsonl: more than the most lines of the most tokens

log = logger(__name__)


def expand(context: Context, task: Task) -> None:
    """Split a waiting parent's input file into child jobs, or fail the parent with the line that cannot be used.

    A parent whose lines came with the request has its children already: it is started.

    Raises:
        StoreUnavailable, DatabaseUnavailable: nothing was written; try again.
    """
    with context.database.transaction() as session:
        parent = jobs.get(session, task.tenant_id, task.job_id)
        file = inference_sql.input_of(session, task.tenant_id, task.job_id)
    if not families.waits(parent):
        return
    if file is None:
        families.start(context, task)
        return
    with tempfile.TemporaryDirectory(prefix="expand-") as folder:
        path = Path(folder) / "input.jsonl"
        try:
            context.store.fetch(task.tenant_id, Blob(file.sha256, file.bytes), path)
            total = sum(1 for _ in source.read(path))
        except BadInput as error:
            _refuse(context, task, code=error.code, title="The input file cannot be used", detail=error.detail)
        except (BlobMissing, BlobCorrupt) as error:
            _refuse(context, task, code=error.code, title="The input file cannot be read", detail=error.message)
        else:
            _make_children(context, task, path, total=total)


def merge(context: Context, task: Task) -> None:
    """End a parent whose children have all ended, with their lines as its result.

    Raises:
        StoreUnavailable, DatabaseUnavailable: the parent is as it was; try again.
    """
    parent = families.merging(context, task)
    if parent is None:
        return
    blob = context.store.put_stream(
        task.tenant_id, results.stream(context.database, task.tenant_id, task.job_id), limit=RESULT_BYTES
    )

    def write(session: Session) -> None:
        artifact = NewArtifact(results.NAME, results.MEDIA_TYPE, blob)
        artifacts.add(session, artifact, tenant_id=parent.tenant_id, job_id=parent.id, attempt=parent.attempt)

    families.finish(context, parent, write=write)


def _make_children(context: Context, task: Task, path: Path, *, total: int) -> None:
    """All children or none: a crash in between leaves a parent that is still to be expanded."""
    with context.database.transaction() as session:
        parent = jobs.get(session, task.tenant_id, task.job_id, lock=True)
        if not families.waits(parent):
            return
        parent.progress_total = total
        session.flush()
        lines, first = source.read(path), 0
        while part := tuple(islice(lines, job_service.CHILD_LINES)):
            job_service.add_children(session, parent, part, first_line=first, extend=inference.like(parent.id))
            first += len(part)
        lifecycle.start_parent(session, parent.id, owner=task.id)
    log.info("inference.expanded", extra={"job": task.job_id, "lines": total})


def _refuse(context: Context, task: Task, *, code: str, title: str, detail: str) -> None:
    families.refuse(context, task, JobError(code=code, title=title, detail=detail))
