"""The courier's part of inference: a file becomes child jobs, their lines become one result.

Both may run twice, and do the same as once: everything that a run writes is one transaction, guarded by the
parent's state.
"""

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.inference import input as source
from services.inference import repository as inference_sql
from services.inference import results
from services.inference import service as inference
from services.inference.input import BadInput
from services.jobs import control_repository as control
from services.jobs import lifecycle
from services.jobs import repository as jobs
from services.jobs import service as job_service
from services.jobs.types import Ending, Outcome
from shared import failpoints
from shared.contracts.jobs import Driver, JobError, State
from shared.db.models import Job
from shared.storage import Blob, BlobCorrupt, BlobMissing
from shared.telemetry import logger
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
    if not _waits(parent):
        return
    if file is None:
        _start(context, task)
        return
    with tempfile.TemporaryDirectory(prefix="expand-") as folder:
        path = Path(folder) / "input.jsonl"
        try:
            context.store.fetch(task.tenant_id, Blob(file.sha256, file.bytes), path)
            total = sum(1 for _ in source.read(path))
        except BadInput as error:
            _refuse(
                context, task, JobError(code=error.code, title="The input file cannot be used", detail=error.detail)
            )
        except (BlobMissing, BlobCorrupt) as error:
            _refuse(
                context, task, JobError(code=error.code, title="The input file cannot be read", detail=error.message)
            )
        else:
            _make_children(context, task, path, total=total)


def merge(context: Context, task: Task) -> None:
    """End a parent whose children have all ended, with their lines as its result.

    Raises:
        StoreUnavailable, DatabaseUnavailable: the parent is as it was; try again.
    """
    with context.database.transaction() as session:
        parent = jobs.get(session, task.tenant_id, task.job_id)
        if parent is None or parent.state != State.RUNNING:
            return  # an earlier run of this task has ended it
        assert not _children(session, parent).unfinished, parent.id
    blob = context.store.put_stream(
        task.tenant_id, results.stream(context.database, task.tenant_id, task.job_id), limit=RESULT_BYTES
    )
    failpoints.hit("finish.after_upload")
    with context.database.transaction() as session, lifecycle.fenced(session, parent.id, parent.attempt):
        control.sum_children(session, parent.id)
        artifact = NewArtifact(results.NAME, results.MEDIA_TYPE, blob)
        artifacts.add(session, artifact, tenant_id=parent.tenant_id, job_id=parent.id, attempt=parent.attempt)
        fresh = jobs.get(session, task.tenant_id, parent.id)
        assert fresh is not None
        lifecycle.end(session, [ending(fresh, _children(session, fresh))])


def ending(parent: Job, children: Row[Any]) -> Ending:
    """What a parent becomes: as good as all of its children, cancelled if it was asked to, else their worst."""
    done = f"{children.succeeded} of {children.total} parts succeeded; their lines are kept"
    if children.succeeded == children.total:
        return Ending(parent.id, parent.attempt, Outcome.SUCCEEDED)
    if parent.cancel_requested_at is not None:
        return Ending(parent.id, parent.attempt, Outcome.CANCELLED)
    if children.expired:
        error = lifecycle.DEADLINE.model_copy(update={"detail": done})
        return Ending(parent.id, parent.attempt, Outcome.EXPIRED, error=error)
    code = (children.first_error or {}).get("code", "part_cancelled")
    error = JobError(code=code, title="A part of the job did not succeed", detail=done, attempt=parent.attempt)
    return Ending(parent.id, parent.attempt, Outcome.FAILED, error=error, permanent=True)


def _children(session: Session, parent: Job) -> Row[Any]:
    return inference_sql.child_ends(session, parent.tenant_id, parent.id)


def _waits(parent: Job | None) -> bool:
    """Whether a parent is still to be expanded: not done by an earlier run, not cancelled meanwhile."""
    return parent is not None and parent.state == State.QUEUED and parent.driver == Driver.CHILDREN


def _start(context: Context, task: Task) -> None:
    """A chained parent's children were let go with it; they may have ended before anybody could merge them."""
    with context.database.transaction() as session:
        if not lifecycle.start_parent(session, task.job_id, owner=task.id):
            return
        if not inference_sql.child_ends(session, task.tenant_id, task.job_id).unfinished:
            control.add_task(session, task.tenant_id, task.job_id, "merge")


def _make_children(context: Context, task: Task, path: Path, *, total: int) -> None:
    """All children or none: a crash in between leaves a parent that is still to be expanded."""
    with context.database.transaction() as session:
        parent = jobs.get(session, task.tenant_id, task.job_id, lock=True)
        if parent is None or not _waits(parent):
            return
        parent.progress_total = total
        session.flush()
        lines, first = source.read(path), 0
        while part := tuple(islice(lines, job_service.CHILD_LINES)):
            job_service.add_children(session, parent, part, first_line=first, extend=inference.like(parent.id))
            first += len(part)
        lifecycle.start_parent(session, parent.id, owner=task.id)
    log.info("inference.expanded", extra={"job": task.job_id, "lines": total})


def _refuse(context: Context, task: Task, error: JobError) -> None:
    """Fail a parent for good; its one attempt was the reading of its file."""
    with context.database.transaction() as session:
        if not lifecycle.start_parent(session, task.job_id, owner=task.id):
            return
        attempt = _attempt(session, task.tenant_id, task.job_id)
        told = error.model_copy(update={"attempt": attempt})
        lifecycle.end(session, [Ending(task.job_id, attempt, Outcome.FAILED, error=told, permanent=True)])


def _attempt(session: Session, tenant_id: UUID, job_id: UUID) -> int:
    job = jobs.get(session, tenant_id, job_id)
    assert job is not None
    return job.attempt
