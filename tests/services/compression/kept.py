"""Rows of calibrations and evaluations, as finished jobs leave them."""

from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.orm import Session

from shared.contracts.compression import CalibrationSpec, Sampling
from shared.contracts.evaluation import EvaluationFigures
from shared.db.models import Artifact, Calibration, CompressionJob, Evaluation, Job, Model
from shared.ids import new_id
from tests.services.compression import found
from tests.services.jobs import build as jobs

Kept = TypeVar("Kept", Calibration, Evaluation)


def job(session: Session, model: Model, *, kind: str = "evaluation", **columns: Any) -> Job:
    """A running job of one of the three kinds, alone in its queue; `columns` are what came of it."""
    row = jobs.job(session, model.tenant_id, kind=kind, spec={"model": model.name}, queue=f"{new_id().hex}.forge")
    assert jobs.claim(session, queue=row.queue)
    session.add(CompressionJob(job_id=row.id, tenant_id=model.tenant_id, model_id=model.id, **columns))
    session.flush()
    return row


def artifact(session: Session, owner: Job, name: str = "report.html") -> UUID:
    """An artifact of a running job; nothing is behind it."""
    row = Artifact(
        id=new_id(),
        job_id=owner.id,
        tenant_id=owner.tenant_id,
        attempt=1,
        position=0,
        name=name,
        media_type="text/html",
        bytes=1,
        sha256=found.SHA,
    )
    session.add(row)
    session.flush()
    return row.id


def calibration(session: Session, model: Model, **columns: Any) -> Calibration:
    """A calibration of a model, with the job that made it."""
    owner = job(session, model, kind="calibration")
    result = found.calibration(found.layer("model.layers.0.mlp.up_proj", w4a16=20.0))
    fields: dict[str, Any] = {
        "id": new_id(),
        "tenant_id": model.tenant_id,
        "job_id": owner.id,
        "model_id": model.id,
        "model_digest": model.digest,
        "key": new_id().hex,
        "artifact_id": artifact(session, owner, "calibration"),
        "report_id": artifact(session, owner),
        "spec": CalibrationSpec(model=model.name, sampling=Sampling(sequence_length=256)).model_dump(mode="json"),
        "facts": result.facts.model_dump(mode="json"),
        "recommendation": result.recommendation.model_dump(mode="json"),
    }
    row = Calibration(**(fields | columns))
    return _written(session, row)


def evaluation(
    session: Session, model: Model | None, baseline: Model | None, figures: EvaluationFigures, **columns: Any
) -> Evaluation:
    """What was found of a model, alone or beside a baseline; `model` is None where it was not registered."""
    known = model or baseline
    assert known is not None
    owner = job(session, known)
    fields: dict[str, Any] = {
        "id": new_id(),
        "tenant_id": known.tenant_id,
        "job_id": owner.id,
        "model_id": model and model.id,
        "baseline_id": baseline and baseline.id,
        "figures": figures.model_dump(mode="json"),
        "report_id": artifact(session, owner),
    }
    row = Evaluation(**(fields | columns))
    return _written(session, row)


def _written(session: Session, row: Kept) -> Kept:
    session.add(row)
    session.flush()
    session.refresh(row)
    return row
