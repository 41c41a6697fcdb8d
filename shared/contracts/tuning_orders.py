"""What forges of tuning are told (`ForgeSpec.spec`), and what they tell back (`DoneMessage.result`).

Paths of orders are absolute; paths of results are below `out`. A checkpoint is a folder with

    model/   what is served: PEFT's two files of an adapter, or a whole model's
    state/   what a run goes on from: optimizer, schedule, random numbers, place in the data; safetensors and JSON alone

and `out/model` is what the run ends with, in the form of `model/`.
"""

from pydantic import Field

from shared.contracts.forge_orders import Data, Subject
from shared.contracts.jobs import Contract
from shared.contracts.tuning import Checkpoints, Lora, Method, Preparation, Relief, Training, TuningFigures

MODEL_FOLDER = "model"
STATE_FOLDER = "state"
DATA_REPORT = "data-report.json"  #: `DataFacts`

# Keys of a metric's values. Those of an evaluation come with `validation_loss`.
LOSS, LEARNING_RATE, GRAD_NORM, TOKENS_S = "loss", "learning_rate", "grad_norm", "tokens_per_second"
ACCURACY, EPOCH, MEMORY, MFU, TOKENS = "token_accuracy", "epoch", "memory_bytes", "mfu", "tokens"
VALIDATION_LOSS, VALIDATION_ACCURACY = "validation_loss", "validation_token_accuracy"


class TuneOrder(Contract):
    """Train `model` on `data`."""

    model: Subject
    name: str  #: of the new model, as reports call it
    method: Method
    lora: Lora | None  #: nothing left open; None of method full
    training: Training  #: learning_rate is set
    checkpoints: Checkpoints
    data: list[Data] = Field(min_length=1)
    validation: list[Data] = Field(default_factory=list)
    validation_share: float | None = None
    preparation: Preparation | None = None
    reference: list[Data] = Field(default_factory=list)  #: of the preparation
    context_length: int  #: tokens that the model holds
    memory_bytes: int | None = None  #: of one device; None: as the device says
    relief: Relief = Relief()


class TuneResult(Contract):
    """What was made. Charts are PNG files in `charts/`."""

    figures: TuningFigures
    charts: list[str] = Field(default_factory=list)


class MergeOrder(Contract):
    """Write the merged checkpoint into `out/model`."""

    model: Subject  #: the base
    adapter: Subject


class MergeResult(Contract):
    """What was made."""

    layers: int  #: that the adapter changed
    bytes: int
    seconds: float
