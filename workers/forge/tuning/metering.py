"""The figures of steps: taken on the device, read when the next step is under way.

A GPU that is asked for a number has nothing to do until the next step has come to it: 34 ms of 525 (Llama 3 8B, one
H200). So a step's figures are copied to the host without waiting, and told one step later; before a checkpoint and
before an evaluation all of them are. Weights do not wait for a look at the loss either: the optimizer leaves out what
is not finite by itself (`LocalAdamW.skipped`).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from shared.contracts.tuning_orders import (
    ACCURACY,
    EPOCH,
    GRAD_NORM,
    LEARNING_RATE,
    LOSS,
    MEMORY,
    MFU,
    TOKENS,
    TOKENS_S,
)
from workers.forge.ranks import world_size
from workers.forge.refusing import Refused
from workers.forge.tuning import following
from workers.forge.tuning.collating import Counts
from workers.forge.tuning.following import Point, Sums, Tally
from workers.forge.tuning.runs import Run


@dataclass(frozen=True)
class _Taken:
    """Figures on their way to the host."""

    step: int
    steps: int  #: since the look before
    epoch: float
    learning_rate: float
    counts: Any  #: of `Sums`, on the host
    figures: Any  #: of `Sums`, and the gradient's norm
    began: Any  #: event of the GPU
    arrived: Any  #: event of the GPU; None: they are there

    @property
    def seconds(self) -> float | None:
        """By the GPU's clock, once it has been read; None where the host's own will do."""
        return None if self.arrived is None else self.began.elapsed_time(self.arrived) / 1000

    def read(self) -> tuple[Sums, float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        *figures, norm = self.figures.tolist()
        return Sums(*self.counts.tolist(), *figures), norm


class Meter:
    """Takes the figures of a run's steps and tells them. `model` is asked for its shape alone."""

    def __init__(self, run: Run, model: Any) -> None:
        self._run = run
        self._model = model
        self._tally = Tally()
        self._taken: list[_Taken] = []
        self._looked = 0  #: step of the newest look
        self._before: Any = None  #: event of the GPU: when the steps of the next look began
        self._peak = following.peak_flops(world_size())
        self.late = run.on.gpu and run.on.precision != "fp16"  #: whether figures are read a step later

    def begin(self, step: int) -> None:
        """After `step`, from which a run goes on."""
        self._looked = step

    def start(self) -> None:
        """A micro-batch is about to be computed."""
        if self.late and self._before is None:
            self._before = _event()

    def add(self, counts: Counts, *, nll: Any, correct: Any) -> None:
        """A micro-batch that has been computed."""
        self._tally.add(counts, nll=nll, correct=correct)

    def judge(self, norm: Any, *, step: int, scaled: bool) -> Any:
        """See whether a step may be taken; on a GPU, a tensor that says 1 where it may not.

        `scaled` gradients may be infinite: that is what their scaler is there for.

        Raises:
            Refused: `loss_not_finite`.
        """
        fine = torch.isfinite(torch.as_tensor(self._tally.nll))
        if not scaled:
            fine = fine & torch.isfinite(norm)
        if not self.late:
            if not fine:
                raise _not_finite(step, f"loss {float(self._tally.nll):.4g}, gradient norm {float(norm):.4g}")
            self._tally.steps += 1
            return None
        self._tally.steps = self._tally.steps + fine
        return (~fine).float()

    def take(self, step: int, *, norm: Any, learning_rate: float, epoch: float) -> None:
        """Take the figures of the steps since the last look, and tell those that were taken before."""
        counts, figures = self._tally.together(ranks=world_size())
        figures = torch.cat([figures, norm.detach().to(torch.float64).reshape(1)])
        self._tally = Tally()
        began = arrived = None
        if self.late:
            figures = figures.to("cpu", non_blocking=True)
            began, self._before = self._before, _event()
            arrived = self._before
        self._taken.append(_Taken(step, step - self._looked, epoch, learning_rate, counts, figures, began, arrived))
        self._looked = step
        self.tell(but=1 if self.late else 0)

    def tell(self, *, but: int = 0) -> None:
        """Tell what has been taken, but for the newest so many.

        Raises:
            Refused: `loss_not_finite`.
        """
        while len(self._taken) > but:
            self._tell(self._taken.pop(0))
        if not but:
            self._before = None  # what follows a look at everything is no training

    def _tell(self, taken: _Taken) -> None:
        run = self._run
        sums, norm = taken.read()
        lost = taken.steps - round(sums.steps / world_size())
        if lost > 0:
            raise _not_finite(taken.step - lost + 1, f"gradient norm {norm:.4g}, rate {taken.learning_rate:.3g}")
        seconds = run.pace.lap(taken.seconds)
        run.totals = run.totals.plus(sums)
        point = Point(
            step=taken.step,
            loss=sums.loss,
            learning_rate=taken.learning_rate,
            grad_norm=norm if math.isfinite(norm) else None,
            tokens_per_second=sums.tokens / seconds,
            memory_bytes=following.memory(),
        )
        run.history.add(point)
        run.pace.speeds.append(point.tokens_per_second)
        run.newest = self._values(point, sums, epoch=taken.epoch, seconds=seconds)
        run.tell.metric(taken.step, **run.newest)

    def _values(self, point: Point, sums: Sums, *, epoch: float, seconds: float) -> dict[str, float]:
        values = {
            LOSS: point.loss,
            LEARNING_RATE: point.learning_rate,
            TOKENS_S: point.tokens_per_second,
            ACCURACY: sums.accuracy,
            EPOCH: epoch,
            MEMORY: float(point.memory_bytes),
            TOKENS: float(self._run.totals.tokens),
        }
        if point.grad_norm is not None:
            values[GRAD_NORM] = point.grad_norm
        if self._peak is not None:
            done = following.flops(self._run.shape, self._model, tokens=sums.tokens, squares=sums.squares)
            values[MFU] = done / seconds / self._peak
            self._run.pace.mfus.append(values[MFU])
        return values


def _event() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _not_finite(step: int, detail: str) -> Refused:
    title = f"The loss of step {step} is not finite; the last checkpoint before it stays"
    return Refused("loss_not_finite", title, detail)
