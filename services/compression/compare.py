"""Two models beside each other: their figures, what evaluations say of both, and whether one comes of the other.

An evaluation of one beside the other tells most: it is shown as from a to b, whichever way round it was made. Where
there is none, results of each are set side by side, of tasks that read the same data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import service as catalog
from services.compression import compare_repository as repository
from services.compression.inputs import full_name
from services.inference.models import ModelFacts, facts
from shared.contracts.evaluation import EvaluationFigures, ModelFigures, TaskResult
from shared.db.models import Evaluation, Model
from shared.errors import UnknownModel
from shared.ids import parse

NEWEST = 50  #: evaluations of each model that are looked through
STEPS = 16  #: from a model back to the one that it comes of
#: symmetric, or found again by division; KL divergence is neither, so it is told only as it was measured
AGREEMENT, KL, RISE, PERPLEXITY = "agreement", "kl_divergence", "ppl_increase", "perplexity"
BETWEEN = frozenset({AGREEMENT, KL, RISE})


@dataclass(frozen=True)
class Side:
    """One of the two models; `measured` is what its evaluation found of the checkpoint by itself, on `device`."""

    known: catalog.Shown
    facts: ModelFacts
    measured: ModelFigures | None = None
    device: str | None = None

    @property
    def name(self) -> str:
        """`name@version`."""
        return full_name(self.known.row)


@dataclass(frozen=True)
class Task:
    """What was found of both in one task; `between` is of the two together: from a to b."""

    result: TaskResult  #: name, type, samples, data
    a: Mapping[str, float]
    b: Mapping[str, float]
    between: Mapping[str, float]
    evaluations: tuple[UUID, UUID]  #: that found it of a, and of b


@dataclass(frozen=True)
class Lineage:
    """One model comes of the other: `steps` are the sources of the models from `derived` back to `base`."""

    base: str
    derived: str
    steps: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """Everything that is known of two models. Ratios are b/a; None where a figure is missing or zero."""

    a: Side
    b: Side
    ratios: Mapping[str, float | None]
    evaluation: Evaluation | None  #: the newest of one beside the other
    tasks: Sequence[Task] = field(default_factory=tuple)
    lineage: Lineage | None = None


def compare(session: Session, tenant_id: UUID, a: str, b: str) -> Comparison:
    """Set two of the tenant's models beside each other; each is named as `services.catalog.service.get` takes it.

    Raises:
        UnknownModel: one names no model (`a` or `b`).
    """
    rows = [catalog.get(session, tenant_id, a, param="a"), catalog.get(session, tenant_id, b, param="b")]
    one, other = (Side(known, facts(known.row, known.base)) for known in catalog.shown(session, rows))
    direct = repository.between(session, tenant_id, rows[0].id, rows[1].id) if rows[0].id != rows[1].id else None
    if direct is not None:
        sides, tasks = _direct(direct, one, other)
    else:
        sides, tasks = _each(session, one, other)
    return Comparison(*sides, _ratios(*sides), direct, tasks, _lineage(session, rows[0], rows[1]))


def _direct(row: Evaluation, a: Side, b: Side) -> tuple[tuple[Side, Side], list[Task]]:
    found = EvaluationFigures.model_validate(row.figures)
    turned = row.model_id == a.known.row.id
    assert found.baseline is not None
    first, second = (found.candidate, found.baseline) if turned else (found.baseline, found.candidate)
    sides = (_measured(a, first, found.device), _measured(b, second, found.device))
    return sides, [_oriented(row, task, turned=turned) for task in found.tasks]


def _oriented(row: Evaluation, task: TaskResult, *, turned: bool) -> Task:
    candidate, baseline = _own(task.candidate), task.baseline or {}
    a, b = (candidate, baseline) if turned else (baseline, candidate)
    between = {name: value for name, value in task.candidate.items() if name in BETWEEN and not (turned and name == KL)}
    return Task(task, a, b, between | _rise(a, b), (row.id, row.id))


def _each(session: Session, a: Side, b: Side) -> tuple[tuple[Side, Side], list[Task]]:
    """The newest results of each on the same data."""
    (one, of_a), (other, of_b) = (_newest(session, side) for side in (a, b))
    tasks = [
        Task(task, of_a[key][1], found, _rise(of_a[key][1], found), (of_a[key][0], evaluation))
        for key, (evaluation, found, task) in of_b.items()
        if key in of_a
    ]
    return (one, other), tasks


Found = dict[tuple[object, ...], tuple[UUID, Mapping[str, float], TaskResult]]


def _newest(session: Session, side: Side) -> tuple[Side, Found]:
    """What was measured of a model last, and its newest result of each task."""
    row, found = side.known.row, Found()
    for each in repository.of_model(session, row.tenant_id, row.id, limit=NEWEST):
        figures, own = EvaluationFigures.model_validate(each.figures), each.model_id == row.id
        measured = figures.candidate if own else figures.baseline
        if side.measured is None and measured is not None:
            side = _measured(side, measured, figures.device)
        for task in figures.tasks:
            metrics = _own(task.candidate) if own else task.baseline
            if metrics is not None:
                found.setdefault(_same(task), (each.id, metrics, task))
    return side, found


def _same(task: TaskResult) -> tuple[object, ...]:
    """What two results share when their figures may be compared: a perplexity also depends on how text was cut."""
    cut = task.tokens if task.type == "text" else None
    return task.type, task.sha256, task.samples, cut, task.signature


def _measured(side: Side, figures: ModelFigures, device: str) -> Side:
    return Side(side.known, side.facts, figures, device)


def _own(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in BETWEEN}


def _rise(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    before, after = a.get(PERPLEXITY), b.get(PERPLEXITY)
    return {RISE: after / before - 1} if before and after is not None else {}


def _ratios(a: Side, b: Side) -> dict[str, float | None]:
    one, other = dict(_figures(a)), dict(_figures(b))
    if a.device != b.device:  # seconds of two machines say nothing
        for name in ("load_s", "peak_memory_bytes"):
            one.pop(name, None)
    served = [side.measured.served if side.measured else None for side in (a, b)]
    if None in served or len({(each.engine, each.gpu_class, each.devices) for each in served if each}) > 1:
        for name in ("served_load_s", "served_memory_bytes", "ttft_ms", "tokens_per_second"):
            one.pop(name, None)
    return {name: _ratio(one.get(name), value) for name, value in other.items()}


def _figures(side: Side) -> Iterator[tuple[str, float | None]]:
    row, measured = side.known.row, side.measured
    yield "bytes", row.bytes
    yield "parameters", row.parameters
    yield "context_length", side.facts.context_length
    yield "kv_bytes_per_token", side.facts.kv_bytes_per_token
    yield "flops_per_token", measured.flops_per_token if measured else None
    yield "load_s", measured.load_s if measured else None
    yield "peak_memory_bytes", measured.peak_memory_bytes if measured else None
    served = measured.served if measured else None
    yield "served_load_s", served.load_s if served else None
    yield "served_memory_bytes", served.memory_bytes if served else None
    yield "ttft_ms", served.ttft_ms if served else None
    yield "tokens_per_second", served.tokens_per_second if served else None


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if not a or b is None else round(b / a, 6)


def _lineage(session: Session, a: Model, b: Model) -> Lineage | None:
    for base, derived in ((a, b), (b, a)):
        steps = _back(session, derived, base)
        if steps:
            return Lineage(full_name(base), full_name(derived), steps)
    return None


def _back(session: Session, model: Model, to: Model) -> list[Mapping[str, Any]]:
    """Sources from a model back to another one; none where it does not come of that."""
    steps: list[Mapping[str, Any]] = []
    at: Model | None = model
    while at is not None and at.id != to.id and len(steps) < STEPS:
        parent = at.base_id or _base_id(at.source)
        steps.append(at.source)
        at = None if parent is None else _by_id(session, at.tenant_id, parent)
    return steps if at is not None and at.id == to.id else []


def _base_id(source: Mapping[str, Any]) -> UUID | None:
    base = source.get("base")
    return parse(base["id"]) if isinstance(base, dict) and isinstance(base.get("id"), str) else None


def _by_id(session: Session, tenant_id: UUID, id: UUID) -> Model | None:
    try:
        return catalog.by_id(session, tenant_id, id)
    except UnknownModel:
        return None
