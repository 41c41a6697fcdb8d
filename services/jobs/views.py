"""Jobs as they are shown: the row, its artifacts, its results, and the sum of its children."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from services.jobs import repository, service, view_repository
from services.jobs.repository import ALL
from services.jobs.types import Wanted
from shared.contracts.inference import RESULTS_INLINE, LineResult
from shared.contracts.jobs import Driver, JobRequest, State
from shared.db.models import Artifact, Checkpoint, Job, JobItem
from shared.errors import InvalidCursor


@dataclass(frozen=True)
class Family:
    """What the children of a parent add up to."""

    done: int
    failed: int  #: lines of `done` whose result is an error
    version: int
    prompt_tokens: int
    completion_tokens: int
    gpu_seconds: float
    cost: float
    updated_at: datetime


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint, and what it answers as where it does."""

    row: Checkpoint
    model: str | None


@dataclass(frozen=True)
class View:
    """A job and what is shown with it."""

    job: Job
    artifacts: tuple[Artifact, ...] = ()
    results: tuple[LineResult, ...] | None = None  #: of a finished job of at most `RESULTS_INLINE` lines
    family: Family | None = None  #: of a parent

    @property
    def version(self) -> int:
        """Grows whenever something shown changes."""
        return self.job.version + (self.family.version if self.family else 0)


def one(session: Session, tenant_id: UUID, job_id: UUID) -> View:
    """A job with everything.

    Raises:
        NotFound: no such job, or another tenant's.
    """
    job = service.get(session, tenant_id, job_id)
    view = _views(session, tenant_id, [job])[0]
    return View(job, view.artifacts, _results(session, job), view.family)


def page(
    session: Session,
    tenant_id: UUID,
    *,
    limit: int,
    after: UUID | None = None,
    before: UUID | None = None,
    wanted: Wanted = ALL,
) -> list[View]:
    """Jobs, newest first, without results; children are not listed.

    Raises:
        InvalidCursor: `after` or `before` names no job of the tenant.
    """
    for name, cursor in (("after", after), ("before", before)):
        if cursor is not None and repository.get(session, tenant_id, cursor) is None:
            raise InvalidCursor(param=name)
    jobs = repository.page(session, tenant_id, limit=limit, after=after, before=before, wanted=wanted)
    return _views(session, tenant_id, jobs)


def of_jobs(session: Session, tenant_id: UUID, jobs: Sequence[Job]) -> list[View]:
    """Jobs that somebody has found, without results, in their order."""
    return _views(session, tenant_id, jobs)


def checkpoints(session: Session, tenant_id: UUID, job_id: UUID) -> list[CheckpointView]:
    """A job's checkpoints, newest first; corrupt ones included."""
    rows = repository.checkpoints(session, tenant_id, job_id)
    names = repository.model_names(session, tenant_id, [row.model_id for row in rows if row.model_id])
    return [CheckpointView(row, names.get(row.model_id) if row.model_id else None) for row in rows]


def recent_twin(session: Session, tenant_id: UUID, request: JobRequest, *, within_s: float) -> View | None:
    """The job that the same request made in the last `within_s` seconds."""
    twin = repository.recent_twin(session, tenant_id, service.fingerprint(request), within_s=within_s)
    return None if twin is None else _views(session, tenant_id, [twin])[0]


def locked(session: Session, tenant_id: UUID, job_id: UUID) -> View:
    """A job that stays as it is until this transaction ends, for a caller who acts on a version of it.

    A parent is not locked, because its children are to be locked first; its version is the sum of theirs.

    Raises:
        NotFound: no such job, or another tenant's.
    """
    job = service.get(session, tenant_id, job_id)
    if job.driver != Driver.CHILDREN:
        repository.get(session, tenant_id, job_id, lock=True)
    return _views(session, tenant_id, [job])[0]


def _views(session: Session, tenant_id: UUID, jobs: Sequence[Job]) -> list[View]:
    ended = [job.id for job in jobs if State(job.state).terminal]
    artifacts = repository.artifacts(session, tenant_id, ended) if ended else []
    parents = [job.id for job in jobs if job.driver == Driver.CHILDREN]
    families = {
        row.parent_id: Family(**{name: getattr(row, name) for name in Family.__dataclass_fields__})
        for row in (view_repository.families(session, tenant_id, parents) if parents else ())
    }
    return [
        View(
            job,
            tuple(artifact for artifact in artifacts if artifact.job_id == job.id),
            family=families.get(job.id),
        )
        for job in jobs
    ]


def _results(session: Session, job: Job) -> tuple[LineResult, ...] | None:
    short = job.kind == "inference" and 0 < (job.progress_total or 0) <= RESULTS_INLINE
    if not short or not State(job.state).terminal:
        return None
    lines = repository.lines(session, job.tenant_id, job.id, limit=RESULTS_INLINE)
    return tuple(_result(line) for line in lines if line.status != "pending")


def _result(line: JobItem) -> LineResult:
    return LineResult.model_validate({"index": line.line_no, "output": line.output, "error": line.error})
