"""What came of calibrations, quantizations and evaluations, for callers. Nothing here commits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import repository as catalog_rows
from services.catalog import service as catalog
from services.compression import repository
from services.compression.repository import Page
from services.jobs import service as jobs
from shared.contracts.jobs import State
from shared.db.models import Calibration, Evaluation, Model
from shared.errors import InvalidCursor, NotFound
from shared.ids import parse

QUANTIZATION = "quantization"  #: the kind that makes a model

Find = Callable[[Session, UUID, UUID], Calibration | Evaluation | None]


class NoResult(NotFound):
    """The job has no result: it has not ended yet, or its kind has its results elsewhere."""

    code = "no_result"


@dataclass(frozen=True)
class Wanted:
    """Rows, newest first: so many behind the one of id `after`; of a model, all versions or the named one; of a job."""

    limit: int
    after: str | None = None
    model: str | None = None
    job_id: UUID | None = None


@dataclass(frozen=True)
class Result:
    """What a job of one of the three kinds has left; what it was not to make, or failed to make, is None."""

    job_id: UUID
    model: Model | None  #: that a quantization registered, or the one that was calibrated or judged
    artifact_id: UUID | None
    evaluation_id: UUID | None
    calibration_id: UUID | None  #: that was made, found or used


def result(session: Session, tenant_id: UUID, job_id: UUID) -> Result:
    """What came of a job.

    Raises:
        NotFound: the tenant has no such job.
        NoResult: it has not ended, or is of another kind.
    """
    job = jobs.get(session, tenant_id, job_id)
    row = repository.job(session, tenant_id, job_id)
    if row is None:
        raise NoResult(f"A job of kind {job.kind} has no such result.", param="job_id")
    if not State(job.state).terminal:
        raise NoResult("The job has not ended yet.", param="job_id")
    about = row.result_model_id if job.kind == QUANTIZATION else row.model_id
    model = about and catalog_rows.get(session, tenant_id, about)
    return Result(job_id, model or None, row.artifact_id, row.evaluation_id, row.calibration_id)


def calibration(session: Session, tenant_id: UUID, id: str) -> Calibration:
    """One calibration, by its own id or its artifact's.

    Raises:
        NotFound: the tenant has none of that id (`calibration_id`).
    """
    parsed = parse(id)
    found = None if parsed is None else repository.calibration(session, tenant_id, parsed)
    if found is None:
        raise NotFound("There is no such calibration.", param="calibration_id")
    return found


def calibrations(session: Session, tenant_id: UUID, wanted: Wanted) -> Sequence[Calibration]:
    """A page of the tenant's calibrations; `after` may be one's artifact.

    Raises:
        InvalidCursor: `after` names no calibration of the tenant.
        UnknownModel: there is no model of that name (`model`).
    """
    return repository.calibrations(session, tenant_id, _page(session, tenant_id, wanted, repository.calibration))


def evaluation(session: Session, tenant_id: UUID, id: str) -> Evaluation:
    """One evaluation.

    Raises:
        NotFound: the tenant has none of that id (`evaluation_id`).
    """
    parsed = parse(id)
    found = None if parsed is None else repository.evaluation(session, tenant_id, parsed)
    if found is None:
        raise NotFound("There is no such evaluation.", param="evaluation_id")
    return found


def evaluations(session: Session, tenant_id: UUID, wanted: Wanted) -> Sequence[Evaluation]:
    """A page of the tenant's evaluations, of a model or beside it.

    Raises:
        InvalidCursor: `after` names no evaluation of the tenant.
        UnknownModel: there is no model of that name (`model`).
    """
    return repository.evaluations(session, tenant_id, _page(session, tenant_id, wanted, repository.evaluation))


def _page(session: Session, tenant_id: UUID, wanted: Wanted, find: Find) -> Page:
    """What is wanted, in ids; `find` looks up the row that `after` names."""
    start = None
    if wanted.after is not None:
        parsed = parse(wanted.after)
        row = None if parsed is None else find(session, tenant_id, parsed)
        if row is None:
            raise InvalidCursor(param="after")
        start = row.id
    models = _versions(session, tenant_id, wanted.model)
    return Page(wanted.limit, after=start, models=models, job_id=wanted.job_id)


def _versions(session: Session, tenant_id: UUID, name: str | None) -> list[UUID] | None:
    """Ids of the versions that a name stands for: all of a model's, or the one that is named; None for no name."""
    if name is None:
        return None
    model = catalog.get(session, tenant_id, name, param="model")
    if name != model.name:
        return [model.id]
    return [each.id for each in catalog_rows.versions(session, tenant_id, name)]
