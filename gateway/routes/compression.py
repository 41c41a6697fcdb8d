"""`/v1/calibrations`, `/v1/evaluations`, and two models beside each other."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query

from gateway.deps import PAGE, CallerDep, Limit, SessionDep
from gateway.routing import Route, needs
from gateway.schemas.common import Page
from gateway.schemas.compression import CalibrationOut, ComparisonOut, EvaluationOut
from services.accounts.service import Scope
from services.compression import compare, views
from services.compression.service import Wanted
from shared.contracts.jobs import Text

router = APIRouter(prefix="/v1", route_class=Route)

CalibrationId = Annotated[Text, Path(description="id of a calibration")]
EvaluationId = Annotated[Text, Path(description="id of an evaluation")]
OneModel = Annotated[
    Text, Path(description="a name, an alias, `name@version` or a version's id; a slash may come encoded")
]
OfModel = Annotated[Text | None, Query(description="a name (all its versions), an alias, `name@version` or an id")]
OfJob = Annotated[UUID | None, Query(description="id of a job")]
After = Annotated[Text | None, Query(description="id of the row before the page")]


@router.get("/calibrations", tags=["compression"], openapi_extra=needs(Scope.JOBS_READ))
def list_calibrations(
    session: SessionDep,
    caller: CallerDep,
    *,
    limit: Limit = 20,
    after: After = None,
    model: OfModel = None,
    job_id: OfJob = None,
) -> Page[CalibrationOut]:
    """Calibrations, newest first."""
    limit = min(limit, PAGE)
    rows = views.calibrations(session, caller.tenant_id, Wanted(limit + 1, after, model, job_id))
    return Page[CalibrationOut].of(rows, limit=limit, shown=CalibrationOut.of)


@router.get("/calibrations/{calibration_id}", tags=["compression"], openapi_extra=needs(Scope.JOBS_READ))
def get_calibration(calibration_id: CalibrationId, session: SessionDep, caller: CallerDep) -> CalibrationOut:
    """One calibration."""
    return CalibrationOut.of(views.calibration(session, caller.tenant_id, calibration_id))


@router.get("/evaluations", tags=["compression"], openapi_extra=needs(Scope.JOBS_READ))
def list_evaluations(
    session: SessionDep,
    caller: CallerDep,
    *,
    limit: Limit = 20,
    after: After = None,
    model: OfModel = None,
    job_id: OfJob = None,
) -> Page[EvaluationOut]:
    """Evaluations, newest first; of a model also those in which it is the baseline."""
    limit = min(limit, PAGE)
    rows = views.evaluations(session, caller.tenant_id, Wanted(limit + 1, after, model, job_id))
    return Page[EvaluationOut].of(rows, limit=limit, shown=EvaluationOut.of)


@router.get("/evaluations/{evaluation_id}", tags=["compression"], openapi_extra=needs(Scope.JOBS_READ))
def get_evaluation(evaluation_id: EvaluationId, session: SessionDep, caller: CallerDep) -> EvaluationOut:
    """One evaluation."""
    return EvaluationOut.of(views.evaluation(session, caller.tenant_id, evaluation_id))


@router.get("/models/{a:path}/compare/{b:path}", tags=["models"], openapi_extra=needs(Scope.MODELS_READ))
def compare_models(a: OneModel, b: OneModel, session: SessionDep, caller: CallerDep) -> ComparisonOut:
    """Two models beside each other: figures, ratios b/a, what evaluations say, whether one comes of the other."""
    return ComparisonOut.of(compare.compare(session, caller.tenant_id, a, b))
