"""What the courier does for any parent: start it, refuse its input, end it with what its children made.

All of it may run twice, and does the same as once: everything that a run writes is one transaction, guarded by the
parent's state.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

from sqlalchemy import Row
from sqlalchemy.orm import Session

from services.inference import repository as inference_sql
from services.jobs import control_repository as control
from services.jobs import lifecycle
from services.jobs import repository as jobs
from services.jobs.types import Ending, Outcome
from shared import failpoints
from shared.contracts.jobs import Driver, JobError, State
from shared.db.models import Job
from workers.tasks.control import Context
from workers.tasks.repository import Task

Write = Callable[[Session], None]
Decide = Callable[[Job, Row[Any]], Ending]


def waits(parent: Job | None) -> TypeGuard[Job]:
    """Whether a parent is still to be expanded: not done by an earlier run, not cancelled meanwhile."""
    return parent is not None and parent.state == State.QUEUED and parent.driver == Driver.CHILDREN


def start(context: Context, task: Task) -> None:
    """Start a parent that has its children: a chained one's were let go with it, and may have ended before this."""
    with context.database.transaction() as session:
        if not lifecycle.start_parent(session, task.job_id, owner=task.id):
            return
        if not inference_sql.child_ends(session, task.tenant_id, task.job_id).unfinished:
            control.add_task(session, task.tenant_id, task.job_id, "merge")


def refuse(context: Context, task: Task, error: JobError, *, write: Write | None = None) -> None:
    """Fail a parent for good, with what `write` adds; its one attempt was the reading of its input."""
    with context.database.transaction() as session:
        if not lifecycle.start_parent(session, task.job_id, owner=task.id):
            return
        job = jobs.get(session, task.tenant_id, task.job_id)
        assert job is not None
        if write is not None:
            write(session)
        told = error.model_copy(update={"attempt": job.attempt})
        lifecycle.end(session, [Ending(job.id, job.attempt, Outcome.FAILED, error=told, permanent=True)])


def merging(context: Context, task: Task) -> Job | None:
    """The parent whose children have all ended; None when an earlier run of the task has ended it."""
    with context.database.transaction() as session:
        parent = jobs.get(session, task.tenant_id, task.job_id)
        if parent is None or parent.state != State.RUNNING:
            return None
        assert not _children(session, parent).unfinished, parent.id
        return parent


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


def finish(context: Context, parent: Job, *, write: Write, decide: Decide = ending) -> None:
    """End a parent, whose results are stored, with what its children used up and what `write` names.

    Raises:
        Fenced: an earlier run of the task has ended it meanwhile.
    """
    failpoints.hit("finish.after_upload")
    with context.database.transaction() as session, lifecycle.fenced(session, parent.id, parent.attempt):
        control.sum_children(session, parent.id)
        write(session)
        fresh = jobs.get(session, parent.tenant_id, parent.id)
        assert fresh is not None
        lifecycle.end(session, [decide(fresh, _children(session, fresh))])


def _children(session: Session, parent: Job) -> Row[Any]:
    return inference_sql.child_ends(session, parent.tenant_id, parent.id)
