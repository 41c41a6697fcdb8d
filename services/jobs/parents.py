"""Parents and their children: ordinary jobs that each run a part of the parent's lines. Nothing here commits."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs import control_repository as control
from services.jobs import lifecycle, repository
from services.jobs.insert_repository import insert_all
from services.jobs.kinds import Prepared
from services.jobs.plan import Plan
from services.jobs.types import NewJob
from shared.contracts.jobs import Driver
from shared.db.models import Job
from shared.ids import new_id

CHILD_LINES = 1000  #: a job of more lines becomes a parent with children of so many


@dataclass(frozen=True)
class Part:
    """The lines of one child, in the order in which they are run, and what it does not inherit from its parent."""

    lines: tuple[dict[str, Any], ...]
    first_line: int = 0  #: number of the first line; they are numbered on from it,
    numbers: tuple[int, ...] | None = None  #: unless each has a number of its own
    custom_ids: tuple[str | None, ...] | None = None
    plan: Plan | None = None
    planned_gpu_s: float | None = None
    spec: dict[str, Any] | None = None


def unfold(session: Session, job: Job, prepared: Prepared) -> None:
    """Make the children of a parent that was written just now, or have the courier make them.

    Those of a blocked parent wait with it; any other has begun. A job that is no parent stays as it is.
    """
    if prepared.expand:
        if not job.blocked:
            control.add_task(session, job.tenant_id, job.id, "expand")
    elif job.driver == Driver.CHILDREN:
        add_children(
            session,
            job,
            prepared.lines,
            first_line=0,
            extend=prepared.extend_child or prepared.extend,
            size=prepared.child_lines,
            spec=prepared.child_spec,
        )
        if not job.blocked:
            lifecycle.start_parent(session, job.id, owner=job.id)


def add_children(
    session: Session,
    parent: Job,
    lines: tuple[dict[str, Any], ...],
    *,
    first_line: int,
    extend: Any = None,
    size: int = CHILD_LINES,
    spec: dict[str, Any] | None = None,
) -> None:
    """Insert ordinary child jobs of `size` lines each, numbered on from `first_line` in the parent's input."""
    parts = [
        Part(lines[start : start + size], first_line=first_line + start, spec=spec)
        for start in range(0, len(lines), size)
    ]
    at_once = max(1, CHILD_LINES // size)  # so many lines to a statement, however small the children are
    for start in range(0, len(parts), at_once):
        for child in insert_all(session, [child_of(parent, part) for part in parts[start : start + at_once]]):
            if extend:
                extend(session, child.id)


def add_child(
    session: Session, parent: Job, part: Part, *, extend: Callable[[Session, UUID], None] | None = None
) -> Job:
    """Insert an ordinary child job that runs a part of the parent's lines."""
    child = repository.insert(session, child_of(parent, part))
    if extend:
        extend(session, child.id)
    return child


def child_of(parent: Job, part: Part) -> NewJob:
    """A child row: the parent's place in the queue unless it has a plan of its own, and a part of its lines."""
    lines, plan = part.lines, part.plan
    share = parent.planned_gpu_s * len(lines) / max(1, parent.progress_total or len(lines))
    return NewJob(
        id=new_id(),
        tenant_id=parent.tenant_id,
        kind=parent.kind,
        spec=parent.spec if part.spec is None else part.spec,
        gpu_class=plan.gpu_class if plan else parent.gpu_class,
        queue=plan.queue if plan else parent.queue,
        tier=parent.tier,
        priority=parent.priority,
        devices=plan.devices if plan else parent.devices,
        plan=asdict(plan) if plan else parent.plan,
        planned_gpu_s=share if part.planned_gpu_s is None else part.planned_gpu_s,
        max_failures=parent.max_failures,
        max_lost=parent.max_lost,
        max_runtime_s=parent.max_runtime_s,
        run_after=parent.run_after,
        deadline_at=parent.deadline_at,
        blocked=parent.blocked,
        after_job_id=parent.after_job_id if parent.blocked else None,
        held=parent.held_at is not None,
        parent_id=parent.id,
        root_id=parent.root_id or parent.id,
        progress_total=len(lines),
        progress_unit=parent.progress_unit,
        lines=lines,
        first_line=part.first_line,
        numbers=part.numbers,
        custom_ids=part.custom_ids,
    )
