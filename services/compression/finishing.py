"""The end of a job of the three kinds: its rows, written in the fenced transaction that ends it.

Artifacts are added before; nothing here commits or talks to the outside.
"""

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog.register import Staged, Wish, write
from services.compression import orders, repository
from services.compression.orders import Material
from services.jobs.types import Claim
from shared.contracts.compression import CalibrationSpec, QuantizationSpec
from shared.contracts.evaluation import EvaluationFigures, Gate, Verdict
from shared.contracts.forge_orders import CalibrationResult, QuantizationResult
from shared.db.models import Artifact, Calibration, Evaluation, Model
from shared.ids import new_id


def keep_calibration(
    session: Session,
    claim: Claim,
    *,
    material: Material,
    key: str,
    result: CalibrationResult,
    artifact: Artifact,
    report: Artifact | None = None,
) -> Calibration:
    """Write a calibration, so that it is found by its key. When another job was quicker, that one's is the result."""
    assert isinstance(material.spec, CalibrationSpec)
    values = {
        "id": new_id(),
        "tenant_id": claim.tenant_id,
        "job_id": claim.job_id,
        "model_id": material.model.id,
        "model_digest": material.model.digest,
        "key": key,
        "artifact_id": artifact.id,
        "report_id": report.id if report else None,
        "spec": material.spec.model_dump(mode="json"),
        "facts": result.facts.model_dump(mode="json"),
        "recommendation": result.recommendation.model_dump(mode="json"),
    }
    kept = repository.add_calibration(session, values)
    use_calibration(session, claim, kept)
    return kept


def use_calibration(session: Session, claim: Claim, found: Calibration) -> None:
    """Make a calibration that is there already the result of a job."""
    repository.finish(session, claim.job_id, calibration_id=found.id, artifact_id=found.artifact_id)


def keep_evaluation(  # noqa: PLR0913 - a row's columns
    session: Session,
    claim: Claim,
    *,
    id: UUID,
    figures: EvaluationFigures,
    model_id: UUID | None,
    baseline_id: UUID | None = None,
    gate: Gate | None = None,
    verdict: Verdict | None = None,
    report: Artifact | None = None,
    artifact: Artifact | None = None,
) -> Evaluation:
    """Write what was found of a model; `model_id` is None where it is not registered.

    `artifact` is what the job's result names, the report unless told otherwise.
    """
    row = Evaluation(
        id=id,
        tenant_id=claim.tenant_id,
        job_id=claim.job_id,
        model_id=model_id,
        baseline_id=baseline_id,
        figures=figures.model_dump(mode="json"),
        gate=gate.model_dump(mode="json", exclude_none=True) if gate else None,
        passed=verdict.passed if verdict else None,
        failures=verdict.failures if verdict else [],
        report_id=report.id if report else None,
    )
    named = artifact or report
    results = {"evaluation_id": id} | ({"artifact_id": named.id} if named else {})
    repository.add_evaluation(session, row)
    repository.finish(session, claim.job_id, **results)
    return row


def keep_quantization(session: Session, claim: Claim, *, staged: Staged, artifact: Artifact | None = None) -> Model:
    """Register the result; `artifact` is what the job's result names.

    Raises:
        NameTaken: somebody has taken the name or the alias meanwhile.
    """
    model = write(session, staged)
    repository.finish(
        session, claim.job_id, result_model_id=model.id, **({"artifact_id": artifact.id} if artifact else {})
    )
    return model


def wish(material: Material, source: dict[str, Any]) -> Wish:
    """What the catalog is asked for; `source` is the `lineage`."""
    spec = material.spec
    assert isinstance(spec, QuantizationSpec)
    assert spec.name is not None
    return Wish(spec.name, serving=spec.serving, alias=spec.alias, source=source)


def lineage(material: Material, *, result: QuantizationResult, evaluation_id: UUID | None) -> dict[str, Any]:
    """Where a quantized version is from: its base, the recipe, the texts it was calibrated with, its evaluation."""
    spec = material.spec
    assert isinstance(spec, QuantizationSpec)
    name, _, version = spec.model.rpartition("@")
    base = {"id": str(material.model.id), "name": name, "version": int(version), "digest": material.model.digest}
    recipe = spec.model_dump(
        mode="json", include={"scheme", "method", "group_size", "ignore", "overrides", "smoothing_strength", "sampling"}
    )
    return {
        "type": "quantization",
        "job_id": str(material.job_id),
        "base": base,
        "recipe": recipe | {"layers": result.layers, "kept": len(result.kept)},
        "calibration": spec.calibration,
        "data": [vars(each) for each in orders.origins(material)],
        "evaluation": None if evaluation_id is None else str(evaluation_id),
    }
