"""What forges of compression are told (`ForgeSpec.spec`), and what they tell back (`DoneMessage.result`).

Paths of orders are absolute; paths of results are below `out`.
"""

from pathlib import Path

from pydantic import Field

from shared.contracts.compression import (
    LayerSensitivity,
    Method,
    Override,
    Pattern,
    Recommendation,
    Sampling,
    Scheme,
)
from shared.contracts.evaluation import EvaluationFigures, Task
from shared.contracts.jobs import Contract

# Files of a calibration artifact, which is a folder.
SAMPLES_FILE = "samples.safetensors"  #: input_ids int32 [samples, length], attention_mask uint8 of the same shape
STATISTICS_FILE = (
    "statistics.safetensors"  #: `{module}.{input|output}.{min|max|absmax|p99|p999|mean_square}` [channels]
)
SENSITIVITY_FILE = "sensitivity.json"  #: list of `LayerSensitivity`
RECOMMENDATION_FILE = "recommendation.json"  #: `Recommendation`
FACTS_FILE = "calibration.json"  #: `CalibrationResult` without `sensitivity`


class Data(Contract):
    """A source whose lines lie on disk."""

    path: Path  #: JSON lines
    name: str  #: as a report calls it
    weight: float = 1.0


class Subject(Contract):
    """A checkpoint on disk, and what a report calls it."""

    folder: Path
    name: str


class SamplingOrder(Contract):
    """Samples to take: `sampling.sequence_length` is set."""

    data: list[Data] = Field(min_length=1)
    reference: list[Data] = Field(default_factory=list)
    sampling: Sampling


class CalibrateOrder(Contract):
    """Write the calibration artifact into `out/calibration`."""

    model: Subject
    samples: SamplingOrder
    schemes: list[Scheme]
    group_size: int


class SampleFacts(Contract):
    """Which samples were taken."""

    samples: int
    sequence_length: int
    tokens: int  #: without padding
    texts: int  #: that there were
    left_out: dict[str, int] = Field(default_factory=dict)  #: texts, by reason
    sources: dict[str, int] = Field(default_factory=dict)  #: texts taken of each source
    sha256: str  #: of the token ids


class CalibrationResult(Contract):
    """What a calibration found. Charts are PNG files in `charts/`."""

    facts: SampleFacts
    sensitivity: list[LayerSensitivity] = Field(default_factory=list)  #: empty in `DoneMessage`: it is in its file
    recommendation: Recommendation
    charts: list[str] = Field(default_factory=list)
    seconds: float


class TaskOrder(Contract):
    """A task with its data on disk. `task.sequence_length` is set."""

    task: Task
    data: list[Data] = Field(min_length=1)


class EvaluateOrder(Contract):
    """Judge `candidate`, beside `baseline` where there is one. Charts go into `out/evaluation/`."""

    candidate: Subject
    baseline: Subject | None = None
    tasks: list[TaskOrder] = Field(min_length=1)
    seed: int = 0


class EvaluationResult(Contract):
    """What an evaluation found; charts are PNG files in `evaluation/`, `rows` JSON lines of every sample."""

    figures: EvaluationFigures
    charts: list[str] = Field(default_factory=list)
    rows: str | None = None


class QuantizeOrder(Contract):
    """Write the checkpoint into `out/checkpoint`, and judge it where `evaluate` says how.

    `evaluate.candidate` is that folder. `calibration` is the folder of an artifact, `samples` makes some; both are
    None where the scheme needs none.
    """

    model: Subject
    scheme: Scheme
    method: Method  #: not auto
    group_size: int | None
    ignore: list[Pattern]
    overrides: list[Override] = Field(default_factory=list)
    smoothing_strength: float | None = None
    calibration: Path | None = None
    samples: SamplingOrder | None = None
    evaluate: EvaluateOrder | None = None


class QuantizationResult(Contract):
    """What was made."""

    layers: int  #: quantized
    kept: list[str]  #: linear layers that stayed as they were
    facts: SampleFacts | None = None
    quantize_s: float  #: llm-compressor's part, from the loaded model to the saved one
    seconds: float  #: of all before the evaluation, imports included
    peak_memory_bytes: int
    bytes: int
    evaluation: EvaluationResult | None = None
