"""The courier's part of a batch: its file becomes child jobs, and their lines the output and the error file.

Both may run twice, and do the same as once: everything that a run writes is one transaction, guarded by the
parent's state.
"""

import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Row
from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.batches import input as source
from services.batches import parts, repository, results
from services.batches.input import BadFile, Lines
from services.batches.parts import Division
from services.batches.results import Input, Written
from services.batches.service import public_id
from services.files import service as files
from services.files.service import BATCH_EXPIRY_S
from services.jobs import lifecycle
from services.jobs import repository as jobs
from services.jobs.types import Ending, Outcome
from shared.contracts.batches import Problem
from shared.contracts.jobs import JobError
from shared.db.models import File, Job
from shared.storage import Blob, BlobCorrupt, BlobMissing
from shared.telemetry import logger
from workers.tasks import families
from workers.tasks.control import Context
from workers.tasks.repository import Task

log = logger(__name__)


class Overtaken(Exception):
    """The parent was started or cancelled while its children were being written: they are taken back."""


def expand(context: Context, task: Task) -> None:
    """Split a waiting batch's input file into child jobs, or fail it with the lines that cannot be used.

    Raises:
        StoreUnavailable, DatabaseUnavailable: nothing was written; try again.
    """
    with context.database.transaction() as session:
        parent = jobs.get(session, task.tenant_id, task.job_id)
        file = repository.input_of(session, task.tenant_id, task.job_id)
    if not families.waits(parent):
        return
    with tempfile.TemporaryDirectory(prefix="expand-") as folder:
        path = Path(folder) / "input.jsonl"
        try:
            context.store.fetch(task.tenant_id, Blob(file.sha256, file.bytes), path)
            lines = source.read(path, endpoint=parent.spec["endpoint"])
            with context.database.transaction() as session:
                division = parts.divide(session, parent, lines)
        except BadFile as error:
            _refuse(context, task, error.problems)
        except (BlobMissing, BlobCorrupt) as error:
            _refuse(context, task, (Problem(code=error.code, message=error.message),))
        else:
            _make_children(context, task, lines, division)


def merge(context: Context, task: Task) -> None:
    """End a batch whose children have all ended, with their lines as its output and its error file.

    Raises:
        StoreUnavailable, DatabaseUnavailable: the batch is as it was; try again.
    """
    parent = families.merging(context, task)
    if parent is None:
        return
    with context.database.transaction() as session:
        repository.finalizing(session, parent.id)
        file = repository.input_of(session, task.tenant_id, parent.id)
    with tempfile.TemporaryDirectory(prefix="merge-") as name:
        folder = Path(name)
        made_of = Input(file.sha256, created=int(file.created_at.timestamp()))
        written = results.write(context.database, parent, source=made_of, folder=folder)
        stored = [
            _artifact(context, parent, folder / each, position=position) if count else None
            for position, (each, count) in enumerate(
                ((results.OUTPUT, written.completed), (results.ERRORS, written.failed))
            )
        ]

    def write(session: Session) -> None:
        output, errors = (None if new is None else _name(session, parent, new) for new in stored)
        repository.ended(
            session,
            parent.id,
            completed=written.completed,
            failed=written.failed,
            cached_tokens=written.cached_tokens,
            output_file_id=None if output is None else output.id,
            error_file_id=None if errors is None else errors.id,
        )

    families.finish(context, parent, write=write, decide=lambda fresh, children: _ending(fresh, children, written))


def _make_children(context: Context, task: Task, lines: Lines, division: Division) -> None:
    """All children or none. The parent is locked only when they are written, so that a cancel need not wait for it."""
    try:
        with context.database.transaction() as session:
            parent = jobs.get(session, task.tenant_id, task.job_id)
            assert parent is not None
            held = parent.held_at is not None
            for piece in division.pieces:
                requests = list(lines.requests(piece.numbers))
                parts.write(session, parent, piece, requests=requests, unknown=division.unknown)
            _start(session, task, lines, division, held=held)
    except Overtaken:
        return
    log.info("batch.expanded", extra={"job": task.job_id, "lines": len(lines.index), "parts": len(division.pieces)})


def _start(session: Session, task: Task, lines: Lines, division: Division, *, held: bool) -> None:
    parent = jobs.get(session, task.tenant_id, task.job_id, lock=True)
    if not families.waits(parent):
        raise Overtaken
    parent.progress_total = len(lines.index)
    parent.planned_gpu_s = sum(piece.planned_gpu_s for piece in division.pieces)
    session.flush()
    (model,) = lines.models if len(lines.models) == 1 else (None,)
    repository.read(session, parent.id, total=len(lines.index), model=model)
    lifecycle.start_parent(session, parent.id, owner=task.id)
    if parent.held_at is not None and not held:
        lifecycle.hold(session, parent.tenant_id, parent.id)


def _refuse(context: Context, task: Task, problems: tuple[Problem, ...]) -> None:
    first = problems[0]
    detail = first.message if first.line is None else f"line {first.line}: {first.message}"
    more = f" ({len(problems)} problems in all)" if len(problems) > 1 else ""
    error = JobError(
        code="invalid_batch_file", title="The input file of the batch cannot be used", detail=f"{detail}{more}"
    )
    told = [problem.model_dump(mode="json") for problem in problems]
    families.refuse(context, task, error, write=lambda session: repository.refused(session, task.job_id, told))


def _artifact(context: Context, parent: Job, path: Path, *, position: int) -> NewArtifact:
    blob = context.store.put_file(parent.tenant_id, path)
    return NewArtifact(path.name, results.MEDIA_TYPE, blob, position)


def _name(session: Session, parent: Job, new: NewArtifact) -> File:
    """A stored result as an artifact of the job, and as a file of the tenant's."""
    artifacts.add(session, new, tenant_id=parent.tenant_id, job_id=parent.id, attempt=parent.attempt)
    return files.add_output(
        session,
        parent.tenant_id,
        filename=f"{public_id(parent.id)}_{new.name}",
        blob=new.blob,
        expires_in_s=parent.spec["output_expires_s"] or BATCH_EXPIRY_S,
    )


def _ending(parent: Job, children: Row[Any], written: Written) -> Ending:
    """A batch whose lines failed has completed: only its file could have failed it."""
    if written.unrun and parent.cancel_requested_at is not None:
        return Ending(parent.id, parent.attempt, Outcome.CANCELLED)
    if written.unrun and children.expired:
        error = lifecycle.DEADLINE.model_copy(update={"detail": f"{written.unrun} lines were not run"})
        return Ending(parent.id, parent.attempt, Outcome.EXPIRED, error=error)
    return Ending(parent.id, parent.attempt, Outcome.SUCCEEDED)
