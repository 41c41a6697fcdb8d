"""What a run of tuning did: the setting that it found, what it did to survive, its data, and what came of it."""

from typing import Literal

from pydantic import Field

from shared.contracts.jobs import Contract


class Relief(Contract):
    """What a run does to fit, after it ran out of memory: in this order, and told by the job."""

    halvings: int = Field(0, ge=0, description="of the micro-batch")
    gradient_checkpointing: bool = False
    activation_offloading: bool = False
    devices: int | None = Field(None, description="more of the class, over which weights and optimizer are sharded")


class Setting(Contract):
    """How a run trains, once everything that was `auto` is decided."""

    devices: int
    batch_size: int
    micro_batch_size: int
    accumulation: int  #: micro-batches of a device for one step
    max_length: int
    precision: Literal["bf16", "fp16", "fp32"]
    gradient_checkpointing: bool
    compiled: bool
    activation_offloading: bool
    attention: str  #: transformers' word, or ours
    packing: bool


class DataFacts(Contract):
    """What the data was, and what of it was trained on. Counts are of samples unless they say otherwise."""

    read: int
    kept: int
    validation: int
    left_out: dict[str, int] = Field(default_factory=dict)  #: by reason
    tokens: int  #: of one epoch, padding apart
    trained_tokens: int  #: of one epoch, those that the loss is of
    longest: int  #: tokens
    rows: int  #: of one epoch: samples, or what they are packed into
    truncated: int = 0
    sources: dict[str, int] = Field(default_factory=dict)  #: samples kept of each
    kinds: dict[str, int] = Field(default_factory=dict)  #: chat, completion, text
    sha256: str  #: of the token ids and the loss mask, in order


class TuningFigures(Contract):
    """What came of a run. Seconds, bytes, tokens."""

    steps: int
    epochs: float
    trainable: int  #: parameters
    parameters: int
    tokens: int  #: seen in all, padding apart
    trained_tokens: int  #: in all: those that the loss is of
    train_loss: float
    validation_loss: float | None = None
    best_step: int | None = None  #: of the lowest validation loss
    stopped_early: bool = False
    seconds: float  #: of training alone, of the attempt that ended it
    tokens_per_second: float  #: median over steps, the first ones apart
    mfu: float | None = None  #: of the device's dense peak (arXiv 2204.02311); null where nobody knows the peak
    peak_memory_bytes: int
    setting: Setting
    relief: Relief = Relief()
    data: DataFacts
