"""What came of calibrations, quantizations and evaluations, for callers. Nothing here commits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import repository as catalog_rows
from services.catalog import service as catalog
from services.compression import repository
from services.compression.repository import Page
from shared.db.models import Calibration, Evaluation
from shared.errors import InvalidCursor, NotFound
from shared.ids import parse

Find = Callable[[Session, UUID, UUID], Calibration | Evaluation | None]


@dataclass(frozen=True)
class Wanted:
    """Rows, newest first: so many behind the one of id `after`; of a model, all versions or the named one; of a job."""

    limit: int
    after: str | None = None
    model: str | None = None
    job_id: UUID | None = None


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
