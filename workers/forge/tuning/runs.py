"""A run: what it is given, and the account that it keeps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.contracts.tuning import Setting
from shared.contracts.tuning_memory import Shape
from shared.contracts.tuning_orders import TuneOrder
from workers.forge.pipe import Pipe
from workers.forge.telling import Tell
from workers.forge.tuning.collating import Collator
from workers.forge.tuning.following import History, Pace, Totals
from workers.forge.tuning.loading import Device
from workers.forge.tuning.samples import TuningData


@dataclass(frozen=True)
class Material:
    """What a run is told, and with what it says what comes of it."""

    order: TuneOrder
    data: TuningData
    tokenizer: Any
    out: Path
    pipe: Pipe
    on: Device
    threads: int

    @property
    def tell(self) -> Tell:
        """For the job's log."""
        return Tell(self.pipe.send)


@dataclass
class Run:
    """One training, of one attempt or of several."""

    order: TuneOrder
    data: TuningData
    setting: Setting
    chosen: int  #: micro-batch before any relief
    shape: Shape
    steps: int  #: to the end
    out: Path
    pipe: Pipe
    tell: Tell
    on: Device
    threads: int
    collator: Collator
    save: Callable[[Any], None]  #: write a checkpoint of a trainer
    totals: Totals = field(default_factory=Totals)
    history: History = field(default_factory=History)
    pace: Pace = field(default_factory=Pace)
    newest: dict[str, float] = field(default_factory=dict)  #: figures of the newest logged step
    best_step: int | None = None  #: of the lowest validation loss
    best_loss: float | None = None
    best_saved: float | None = None  #: lowest validation loss of a checkpoint
    best_weights: dict[str, Any] | None = None  #: on the CPU, where early stopping will want them
    stopped_early: bool = False
