"""Calibrations, evaluations, what a job of them came to, and two models beside each other."""

from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field

from gateway.schemas.common import Moment, Out
from services.compression.compare import Comparison, Side, Task
from services.compression.views import CalibrationView, EvaluationView
from shared.contracts.compression import Recommendation, Sampling, Scheme
from shared.contracts.evaluation import EvaluationFigures, Gate, ModelFigures
from shared.contracts.forge_orders import SampleFacts


class CalibrationOut(Out):
    """What a model's layers saw, and what each scheme would cost them. It never changes."""

    id: UUID
    object: Literal["calibration"] = "calibration"
    job_id: UUID = Field(description="the job that made it")
    model: str = Field(description="`name@version`")
    model_id: UUID
    model_digest: str = Field(description="the weights that it is of: every version that has them may use it")
    artifact_id: UUID = Field(description="a folder: samples, statistics, sensitivity table, recommendation")
    report_id: UUID | None = Field(description="an artifact: the HTML report")
    data: list[dict[str, Any]] = Field(description="sources of the texts")
    sampling: Sampling
    schemes: list[Scheme]
    group_size: int
    facts: SampleFacts
    recommendation: Recommendation
    created_at: Moment

    @classmethod
    def of(cls, shown: CalibrationView) -> Self:
        """The resource of a row."""
        row = shown.row
        return cls(
            id=row.id,
            job_id=row.job_id,
            model=shown.model,
            model_id=row.model_id,
            model_digest=row.model_digest,
            artifact_id=row.artifact_id,
            report_id=row.report_id,
            data=row.spec.get("data", []),
            sampling=Sampling.model_validate(row.spec.get("sampling", {})),
            schemes=row.spec["schemes"],
            group_size=row.spec["group_size"],
            facts=SampleFacts.model_validate(row.facts),
            recommendation=Recommendation.model_validate(row.recommendation),
            created_at=row.created_at,
        )


class EvaluationOut(Out):
    """What was found of a model, alone or beside another. It never changes."""

    id: UUID
    object: Literal["evaluation"] = "evaluation"
    job_id: UUID
    model: str = Field(description="`name@version`; the name alone of a checkpoint that was not registered")
    model_id: UUID | None = Field(description="null of a checkpoint that did not pass its gate")
    baseline: str | None
    baseline_id: UUID | None
    figures: EvaluationFigures
    gate: Gate | None
    passed: bool | None = Field(description="null without a gate")
    failures: list[str]
    report_id: UUID | None = Field(description="an artifact: the HTML report")
    created_at: Moment

    @classmethod
    def of(cls, shown: EvaluationView) -> Self:
        """The resource of a row."""
        row = shown.row
        return cls(
            id=row.id,
            job_id=row.job_id,
            model=shown.model,
            model_id=row.model_id,
            baseline=shown.baseline,
            baseline_id=row.baseline_id,
            figures=EvaluationFigures.model_validate(row.figures),
            gate=None if row.gate is None else Gate.model_validate(row.gate),
            passed=row.passed,
            failures=row.failures,
            report_id=row.report_id,
            created_at=row.created_at,
        )


class ComparedModelOut(Out):
    """One of two models. `measured` is what an evaluation found of its checkpoint, on `device`."""

    id: str = Field(description="`name@version`")
    object: Literal["model"] = "model"
    version_id: UUID
    digest: str
    dtype: str
    bytes: int
    parameters: int
    context_length: int
    kv_bytes_per_token: int
    ready_replicas: int = Field(description="engines that have it loaded")
    gpu_classes: list[str] = Field(description="the classes of those engines")
    measured: ModelFigures | None
    device: str | None

    @classmethod
    def of(cls, side: Side) -> Self:
        """The resource of one side."""
        row, replicas = side.known.row, side.known.replicas
        return cls(
            id=side.name,
            version_id=row.id,
            digest=row.digest,
            dtype=row.dtype,
            bytes=row.bytes,
            parameters=row.parameters,
            context_length=side.facts.context_length,
            kv_bytes_per_token=side.facts.kv_bytes_per_token,
            ready_replicas=replicas.count,
            gpu_classes=list(replicas.gpu_classes),
            measured=side.measured,
            device=side.device,
        )


class ComparedTaskOut(Out):
    """What was found of both in one task, on the same data."""

    name: str
    type: Literal["text", "choice", "generation"]
    samples: int
    tokens: int
    sha256: str = Field(description="of the data")
    a: dict[str, float]
    b: dict[str, float]
    between: dict[str, float] = Field(
        description="from a to b: ppl_increase, agreement; kl_divergence where b was judged beside a"
    )
    evaluation_a: UUID = Field(description="the evaluation that found it of a")
    evaluation_b: UUID

    @classmethod
    def of(cls, task: Task) -> Self:
        """The resource of a task."""
        result = task.result
        return cls(
            name=result.name,
            type=result.type,
            samples=result.samples,
            tokens=result.tokens,
            sha256=result.sha256,
            a=dict(task.a),
            b=dict(task.b),
            between=dict(task.between),
            evaluation_a=task.evaluations[0],
            evaluation_b=task.evaluations[1],
        )


class LineageOut(Out):
    """One model comes of the other."""

    base: str = Field(description="`name@version`")
    derived: str = Field(description="`name@version`")
    steps: list[dict[str, Any]] = Field(description="`source` of the models from `derived` back to `base`")


class ComparisonOut(Out):
    """Two models beside each other."""

    object: Literal["model.comparison"] = "model.comparison"
    a: ComparedModelOut
    b: ComparedModelOut
    ratios: dict[str, float | None] = Field(
        description="b/a; null where a figure is missing, or was measured on another device or engine"
    )
    evaluation: UUID | None = Field(description="the newest evaluation of one beside the other")
    tasks: list[ComparedTaskOut] = Field(description="of that evaluation; else the newest of each on the same data")
    lineage: LineageOut | None

    @classmethod
    def of(cls, found: Comparison) -> Self:
        """The resource of a comparison."""
        line = found.lineage
        return cls(
            a=ComparedModelOut.of(found.a),
            b=ComparedModelOut.of(found.b),
            ratios=dict(found.ratios),
            evaluation=None if found.evaluation is None else found.evaluation.id,
            tasks=[ComparedTaskOut.of(task) for task in found.tasks],
            lineage=None if line is None else LineageOut.model_validate(line, from_attributes=True),
        )


def _text(id: UUID | None) -> str | None:
    return None if id is None else str(id)
