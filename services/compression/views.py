"""Calibrations, evaluations and results as they are shown: the row, and what its models are called."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import repository as catalog
from services.compression import service
from services.compression.inputs import full_name
from services.compression.service import Wanted
from shared.db.models import Calibration, Evaluation


@dataclass(frozen=True)
class CalibrationView:
    """A calibration; `model` is `name@version`."""

    row: Calibration
    model: str


@dataclass(frozen=True)
class EvaluationView:
    """An evaluation; `model` is what it was to be called where nothing was registered."""

    row: Evaluation
    model: str
    baseline: str | None


def calibration(session: Session, tenant_id: UUID, id: str) -> CalibrationView:
    """One calibration.

    Raises:
        NotFound: the tenant has none of that id.
    """
    return _calibrations(session, [service.calibration(session, tenant_id, id)])[0]


def calibrations(session: Session, tenant_id: UUID, wanted: Wanted) -> list[CalibrationView]:
    """A page of calibrations.

    Raises:
        InvalidCursor, UnknownModel: as the service.
    """
    return _calibrations(session, service.calibrations(session, tenant_id, wanted))


def evaluation(session: Session, tenant_id: UUID, id: str) -> EvaluationView:
    """One evaluation.

    Raises:
        NotFound: the tenant has none of that id.
    """
    return _evaluations(session, [service.evaluation(session, tenant_id, id)])[0]


def evaluations(session: Session, tenant_id: UUID, wanted: Wanted) -> list[EvaluationView]:
    """A page of evaluations.

    Raises:
        InvalidCursor, UnknownModel: as the service.
    """
    return _evaluations(session, service.evaluations(session, tenant_id, wanted))


def _calibrations(session: Session, rows: Sequence[Calibration]) -> list[CalibrationView]:
    names = _names(session, {row.model_id for row in rows})
    return [CalibrationView(row, names[row.model_id]) for row in rows]


def _evaluations(session: Session, rows: Sequence[Evaluation]) -> list[EvaluationView]:
    names = _names(session, {each for row in rows for each in (row.model_id, row.baseline_id) if each is not None})
    return [
        EvaluationView(
            row,
            names[row.model_id] if row.model_id else str(row.figures["candidate"]["name"]),
            names[row.baseline_id] if row.baseline_id else None,
        )
        for row in rows
    ]


def _names(session: Session, ids: Collection[UUID]) -> Mapping[UUID, str]:
    """`name@version` of versions, deleted since or not."""
    return {row.id: full_name(row) for row in catalog.bases(session, ids)}
