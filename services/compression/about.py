"""What a report or a model card says beside the figures: where texts came from, what was made of which model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.contracts.compression import Method, Override, Scheme
from shared.contracts.evaluation import EvaluationFigures, Gate, Verdict
from shared.contracts.forge_orders import QuantizationResult


@dataclass(frozen=True)
class Origin:
    """A source of texts as people know it; `sha256` is that of the bytes which were read."""

    name: str  #: `chats.jsonl (file-…)`, or `library text of Python 3.11.9`
    sha256: str
    bytes: int | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Quantized:
    """Everything that a card says of a quantized checkpoint. Scheme and method are what was really done."""

    name: str  #: of the new model
    base: str  #: `name@version`
    base_digest: str
    base_source: Mapping[str, Any]  #: `models.source` of the base
    job_id: str
    scheme: Scheme
    method: Method
    group_size: int | None
    ignore: Sequence[str]
    overrides: Sequence[Override]
    smoothing_strength: float | None
    result: QuantizationResult
    calibration_id: str | None = None
    data: Sequence[Origin] = ()
    gate: Gate | None = None
    verdict: Verdict | None = None
    figures: EvaluationFigures | None = None  #: with what engines said; None: those of `result`, if it has any

    @property
    def evaluated(self) -> EvaluationFigures | None:
        """What was found of it, if anybody looked."""
        found = self.result.evaluation
        return self.figures or (found.figures if found else None)
