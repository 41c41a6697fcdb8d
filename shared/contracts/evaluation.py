"""Evaluation: what a model is judged by, and what was found."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from shared.contracts.jobs import Contract, Name, Text

TASKS = 16  #: most tasks of an evaluation

Metric = Literal["exact_match", "bleu", "chrf", "rouge"]
METRICS: tuple[Metric, ...] = ("exact_match", "bleu", "chrf", "rouge")


class FileSource(Contract):
    """An uploaded file: JSON lines, each with a `text`, `messages`, or `prompt` and `completion`."""

    type: Literal["file"] = "file"
    file_id: Text
    weight: float = Field(1.0, gt=0, le=1000, description="its share of the samples, among the other sources'")


class LibrarySource(Contract):
    """The text of the Python standard library that the platform runs on; calibration and evaluation share no module."""

    type: Literal["library"]
    weight: float = Field(1.0, gt=0, le=1000)


Source = Annotated[FileSource | LibrarySource, Field(discriminator="type")]


def check_sources(sources: Sequence[Source]) -> None:
    """Refuse a source that is named twice.

    Raises:
        ValueError: one is.
    """
    names = [source.file_id if isinstance(source, FileSource) else source.type for source in sources]
    if len(set(names)) < len(names):
        msg = "a source is named twice: give it a larger weight"
        raise ValueError(msg)


class TextTask(Contract):
    """Perplexity of texts; beside a baseline also KL divergence and top-1 agreement of the next token."""

    type: Literal["text"]
    name: Name = "text"
    data: list[Source] = Field(default_factory=list, max_length=16, description="none: held-out library text")
    samples: int = Field(64, ge=1, le=10_000, strict=True, description="sequences at most")
    sequence_length: int | None = Field(
        None, ge=16, le=131_072, strict=True, description="tokens of a sequence; null: 512, or the model's context"
    )


class ChoiceTask(Contract):
    """Multiple choice: lines of `prompt`, `choices` (two or more) and `answer` (index of the right one).

    `accuracy` takes the choice of the highest log-likelihood after the prompt, `accuracy_normalized` that of the
    highest log-likelihood a character (lm-evaluation-harness's `acc` and `acc_norm`).
    """

    type: Literal["choice"]
    name: Name = "choice"
    file_id: Text
    samples: int = Field(1000, ge=1, le=100_000, strict=True)


class GenerationTask(Contract):
    """Greedy answers: lines of `prompt` or `messages`, and `answer` or `answers` (any of them is right)."""

    type: Literal["generation"]
    name: Name = "generation"
    file_id: Text
    metrics: list[Metric] = Field(list(METRICS), min_length=1)
    samples: int = Field(200, ge=1, le=100_000, strict=True)
    max_tokens: int = Field(64, ge=1, le=4096, strict=True)


Task = Annotated[TextTask | ChoiceTask | GenerationTask, Field(discriminator="type")]


class EvaluationOptions(Contract):
    """What is measured."""

    tasks: list[Task] = Field([TextTask(type="text")], min_length=1, max_length=TASKS, description="names differ")
    speed: bool = Field(
        True, description="load time, memory, TTFT and tokens a second of each model on the engine that would serve it"
    )

    @model_validator(mode="after")
    def _named(self) -> "EvaluationOptions":
        if len({task.name for task in self.tasks}) < len(self.tasks):
            msg = "two tasks have one name"
            raise ValueError(msg)
        for task in self.tasks:
            if isinstance(task, TextTask):
                check_sources(task.data)
        return self

    @property
    def judges(self) -> bool:
        """Whether there is something for a gate to look at."""
        return _judged(self.tasks)


def _judged(tasks: Sequence[Task]) -> bool:
    return any(isinstance(task, TextTask) for task in tasks)


class Gate(Contract):
    """What a model must reach beside its baseline, in every task of type `text`."""

    max_ppl_increase: float | None = Field(
        None, ge=0, description="largest rise of the perplexity as a fraction: 0.02 is 2%"
    )
    min_agreement: float | None = Field(None, ge=0, le=1, description="least share of equal top-1 next tokens")
    max_kl_divergence: float | None = Field(None, ge=0, description="largest mean KL divergence, nats a token")

    @model_validator(mode="after")
    def _asks(self) -> "Gate":
        if all(limit is None for _, limit in self):
            msg = "a gate asks for something: max_ppl_increase, min_agreement or max_kl_divergence"
            raise ValueError(msg)
        return self


class EvaluationSpec(EvaluationOptions):
    """Judge a model, alone or beside another one."""

    model: Name
    baseline: Name | None = Field(None, description="the model that it is compared with; null: none")
    gate: Gate | None = Field(None, description="a job whose model does not pass fails with `gate_not_met`")

    @field_validator("gate")
    @classmethod
    def _beside(cls, gate: Gate | None, info: ValidationInfo) -> Gate | None:
        if gate is not None and info.data.get("baseline", ...) is None:
            msg = "a gate compares with a baseline"
            raise ValueError(msg)
        tasks = info.data.get("tasks")
        if gate is not None and tasks is not None and not _judged(tasks):
            msg = "a gate looks at tasks of type text: there is none"
            raise ValueError(msg)
        return gate


class ServedFigures(Contract):
    """A model on an engine, one request at a time."""

    engine: str  #: its kind: vllm, transformers …
    gpu_class: str
    devices: int
    load_s: float
    memory_bytes: int | None  #: that the engine's processes hold, as the device or the kernel tells
    ttft_ms: float  #: median
    tokens_per_second: float  #: median, after the first token
    prompt_tokens: int
    completion_tokens: int


class ModelFigures(Contract):
    """A checkpoint by itself."""

    name: str
    bytes: int  #: of all its files
    weight_bytes: int
    parameters: int
    flops_per_token: int  #: of a forward pass at an empty cache: two for each weight of a matrix that it goes through
    load_s: float  #: into the evaluating process
    peak_memory_bytes: int  #: what loading it and running it alone added to the evaluating process, or to its GPUs
    served: ServedFigures | None = None
    not_served: str | None = None  #: why `served` is missing


class TaskResult(Contract):
    """What was found in one task.

    Metrics of text: `perplexity`, of the candidate beside a baseline also `ppl_increase` (a fraction),
    `kl_divergence` (nats a token) and `agreement`; of choice: `accuracy`, `accuracy_normalized`; of generation:
    `exact_match`, `bleu`, `chrf`, `rouge1`, `rouge2`, `rougeL` (shares; BLEU and chrF out of 100).
    """

    name: str
    type: Literal["text", "choice", "generation"]
    samples: int
    tokens: int  #: of the candidate: predicted in texts, scored in choices, generated in answers
    sha256: str  #: of the data as it was read
    candidate: dict[str, float]
    baseline: dict[str, float] | None = None
    signature: str | None = None  #: sacrebleu's, which makes a score repeatable
    skipped: dict[str, int] = Field(default_factory=dict)  #: samples that were left out, by reason


class EvaluationFigures(Contract):
    """Everything that an evaluation found."""

    candidate: ModelFigures
    baseline: ModelFigures | None = None
    tasks: list[TaskResult]
    device: str  #: what computed it: `cpu`, or the GPU's name
    seconds: float


class Verdict(Contract):
    """What a gate said: every failed condition in words."""

    passed: bool
    failures: list[str] = Field(default_factory=list)


def judge(gate: Gate, figures: EvaluationFigures) -> Verdict:
    """Compare every text task with a gate. A figure that is not finite fails."""
    failures = [
        f"{task.name}: {name} is {value:.4g}, {word} than {limit:.4g}"
        for task in figures.tasks
        if task.type == "text"
        for name, limit, word, sign in (
            ("ppl_increase", gate.max_ppl_increase, "more", 1),
            ("agreement", gate.min_agreement, "less", -1),
            ("kl_divergence", gate.max_kl_divergence, "more", 1),
        )
        if limit is not None
        for value in (task.candidate.get(name, float("nan")),)
        if not sign * value <= sign * limit
    ]
    return Verdict(passed=not failures, failures=failures)
