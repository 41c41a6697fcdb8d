"""What a run is known by while it goes on: its figures, and where they stand in all."""

import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import monotonic
from typing import Any, Final, NamedTuple

import torch
from pydantic import BaseModel

from shared.contracts.tuning_memory import Shape
from workers.forge.tuning.collating import Counts

POINTS: Final = 2048  #: of a curve: more than a chart has columns
WARM_UP: Final = 3  #: logged steps that count for no speed: memory is taken, kernels are compiled
#: dense tensor-core peaks of bf16, operations a second (NVIDIA's data sheets); the more special name first
PEAKS: Final[Mapping[str, float]] = {
    "GB200": 2.5e15, "B200": 2.25e15, "H200 NVL": 835e12, "H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12,
    "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10G": 70e12, "L4": 121e12, "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}  # fmt: skip


class Totals(BaseModel):
    """Of all steps of a run, whichever attempt took them."""

    tokens: int = 0  #: padding apart
    targets: int = 0  #: that the loss is of
    nll: float = 0.0  #: nats, of all targets

    @property
    def loss(self) -> float:
        """Of a token, over the whole run."""
        return self.nll / max(1, self.targets)

    def plus(self, sums: "Sums") -> "Totals":
        """With another tally."""
        return Totals(
            tokens=self.tokens + int(sums.tokens),
            targets=self.targets + int(sums.targets),
            nll=self.nll + sums.nll,
        )


class Point(BaseModel):
    """The figures of one logged step."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float | None  #: None: infinite, as fp16's first can be
    tokens_per_second: float
    memory_bytes: int


class History(BaseModel):
    """Curves of a run. Where they get long, every second point goes."""

    points: list[Point] = []
    validation: list[tuple[int, float]] = []  #: (step, loss)
    every: int = 1
    seen: int = 0

    def add(self, point: Point) -> None:
        """Another point of the curves."""
        if self.seen % self.every == 0:
            self.points.append(point)
        self.seen += 1
        if len(self.points) > POINTS:
            self.points = self.points[::2]
            self.every *= 2


@dataclass
class Tally:
    """What came since the last look: of this rank."""

    tokens: int = 0
    targets: int = 0
    squares: int = 0
    steps: Any = 0  #: with finite figures: a tensor of the device, not waited for, as the rest
    nll: Any = 0.0
    correct: Any = 0

    def add(self, counts: Counts, *, nll: Any, correct: Any) -> None:
        """A micro-batch."""
        self.tokens += counts.tokens
        self.targets += counts.targets
        self.squares += counts.squares
        self.nll = self.nll + nll
        self.correct = self.correct + correct

    def together(self, *, ranks: int) -> tuple[Any, Any]:
        """(counts on the host, figures on the device) of all ranks, as `Sums` has them. Every rank calls it.

        Counts are not copied to the device: a copy from memory that is not pinned waits for all that it has to do.
        """
        counts = torch.tensor([self.tokens, self.targets, self.squares], dtype=torch.float64)
        figures = torch.stack(
            [torch.as_tensor(each).to(torch.float64) for each in (self.nll, self.correct, self.steps)]
        )
        if ranks > 1:
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(figures)
        return counts, figures


class Sums(NamedTuple):
    """A tally, read."""

    tokens: float
    targets: float
    squares: float
    nll: float
    correct: float
    steps: float  #: times the ranks

    @property
    def loss(self) -> float:
        """Of a token."""
        return self.nll / max(1.0, self.targets)

    @property
    def accuracy(self) -> float:
        """Share of the tokens that were the likeliest."""
        return self.correct / max(1.0, self.targets)


@dataclass
class Pace:
    """Seconds of training alone."""

    seconds: float = 0.0  #: in all, of this attempt
    speeds: list[float] = field(default_factory=list)  #: tokens a second, of each look
    mfus: list[float] = field(default_factory=list)
    _since: float = field(default_factory=monotonic)

    def begin(self) -> None:
        """From now on."""
        self._since = monotonic()

    def lap(self, seconds: float | None = None) -> float:
        """Seconds of training since the last lap, unless somebody knows them better."""
        now = monotonic()
        lap, self._since = now - self._since if seconds is None else seconds, now
        self.seconds += lap
        return lap

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done inside is no training."""
        began = monotonic()
        yield
        self._since += monotonic() - began

    def speed(self) -> float:
        """Tokens a second, the median."""
        return _steady(self.speeds) or 0.0

    def mfu(self) -> float | None:
        """The median; None where the device's peak is not known."""
        return _steady(self.mfus)


def flops(of: Shape, model: Any, *, tokens: float, squares: float) -> float:
    """Operations that a step needs, whatever else it computes again (arXiv 2204.02311's model FLOPs).

    A token costs 4 a weight that it is multiplied with (2 forwards, 2 for the gradient of its input), and 2 more where
    the weight has a gradient; causal attention of S tokens 6 × layers × heads × head size × S².
    """
    config = model.config.get_text_config()
    multiplied = of.parameters
    if not getattr(config, "tie_word_embeddings", False):  # else the table is the head too
        multiplied -= model.get_input_embeddings().weight.numel()
    heads = getattr(config, "num_attention_heads", None) or 0
    size = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
    attention = 6 * config.num_hidden_layers * heads * size
    return float(tokens * (4 * multiplied + 2 * min(of.trainable, multiplied)) + attention * squares)


def peak_flops(devices: int) -> float | None:
    """Dense bf16 operations a second of all devices; None: a CPU, or a GPU that is not in the table."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((devices * peak for model, peak in PEAKS.items() if model in name), None)


def memory() -> int:
    """Bytes: the most that this rank has held, of its GPU by torch's allocator, else of the host."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _steady(figures: list[float]) -> float | None:
    steady = figures[WARM_UP:] if len(figures) > 2 * WARM_UP else figures
    return median(steady) if steady else None
