"""Tuning and merging: what a caller asks for, and what was found on the way."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from shared.contracts.compression import Pattern
from shared.contracts.evaluation import Source, check_sources
from shared.contracts.jobs import Contract, Name, Text
from shared.contracts.serving import Serving
from shared.contracts.tuning_figures import DataFacts, Relief, Setting, TuningFigures

__all__ = [
    "LARGEST_RANK", "RESULT", "Auto", "Checkpoints", "Choice", "DataFacts", "EarlyStopping", "Lora", "LossOn",
    "MergeSpec", "Method", "Precision", "Preparation", "Relief", "Schedule", "Setting", "Training", "TuningFigures",
    "TuningSpec",
]  # fmt: skip

LARGEST_RANK = 256  #: that an engine of ours is started for; vLLM's `max_lora_rank` goes on to 512
RESULT = "$result"  #: stands for the model that the job before this one makes, in a job of `on_success`

Auto = Literal["auto"]
Choice = bool | Auto  #: `auto` is decided by the memory and the device at hand


class Method(StrEnum):
    """What is trained."""

    LORA = "lora"  #: arXiv 2106.09685: two thin matrices beside each layer
    RSLORA = "rslora"  #: arXiv 2312.03732: the same, scaled by alpha/√rank
    DORA = "dora"  #: arXiv 2402.09353: magnitude apart from direction; no engine has it, so its result is merged
    FULL = "full"  #: every weight

    @property
    def adapts(self) -> bool:
        """Whether the base stays as it is while an adapter is trained."""
        return self is not Method.FULL

    @property
    def merged(self) -> bool:
        """Whether the result is a whole model rather than an adapter."""
        return self in (Method.FULL, Method.DORA)


class Schedule(StrEnum):
    """The learning rate after its warm-up (names of transformers' `SchedulerType`)."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant_with_warmup"
    POLYNOMIAL = "polynomial"


class Precision(StrEnum):
    """What is computed in."""

    AUTO = "auto"  #: bf16 on a GPU that has it, fp16 on one that has not, fp32 on a CPU
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


class LossOn(StrEnum):
    """Which tokens the loss is of."""

    AUTO = "auto"  #: completion where lines have one, assistant of chats, all of plain texts
    ALL = "all"
    COMPLETION = "completion"  #: of lines with prompt and completion; of chats, the last answer
    ASSISTANT = "assistant"  #: every answer of a chat whose message has no `weight` 0; of other lines, the completion


def check_unweighed(sources: Sequence[Source]) -> None:
    """Refuse a weight where nothing is mixed.

    Raises:
        ValueError: there is one.
    """
    if any(source.weight != 1 for source in sources):
        msg = "a weight is for what is trained on"
        raise ValueError(msg)


def _without(told: dict[str, Any], name: str | None) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key != name}


class Lora(Contract):
    """The adapter's shape."""

    rank: int = Field(16, ge=1, le=LARGEST_RANK, strict=True)
    alpha: float | None = Field(None, gt=0, lt=1e6, description="null: twice the rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | Annotated[list[Pattern], Field(min_length=1, max_length=256)] = Field(
        "all-linear", description="every linear layer but the head, or names as PEFT matches them: by their end"
    )


class EarlyStopping(Contract):
    """Stop when the validation loss gets no better."""

    patience: int = Field(3, ge=1, le=1000, strict=True, description="evaluations without an improvement")
    threshold: float = Field(0.0, ge=0, lt=100, description="a smaller improvement is none")


class Training(Contract):
    """How it is trained. A batch is of samples, or of packed rows; lengths are of tokens."""

    learning_rate: float | None = Field(None, gt=0, lt=10, description="null: 2e-4 of an adapter, 2e-5 of all weights")
    schedule: Schedule = Schedule.COSINE
    warmup: float = Field(0.03, ge=0, lt=1, description="share of all steps in which the learning rate grows")
    epochs: float = Field(3.0, gt=0, le=1000, description="not with steps")
    steps: int | None = Field(None, ge=1, le=10_000_000, strict=True, description="instead of epochs")
    batch_size: int | Auto = Field(
        "auto", description="samples of one optimizer step, on all devices together; auto: 16, fewer of little data"
    )
    micro_batch_size: int | Auto = Field(
        "auto", description="samples that a device holds at once; auto: the most that fit, and divide the batch"
    )
    weight_decay: float = Field(0.0, ge=0, le=1)
    max_grad_norm: float = Field(1.0, gt=0, le=1000, description="longer gradients are cut")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    neftune_alpha: float | None = Field(None, gt=0, le=1000, description="arXiv 2310.05914: noise on embeddings")
    max_length: int | None = Field(None, ge=16, le=1_048_576, strict=True, description="null: the data's, at most 2048")
    too_long: Literal["refuse", "truncate", "drop"] = Field("refuse", description="samples longer than max_length")
    packing: bool = Field(False, description="several samples a row, which see nothing of one another")
    loss_on: LossOn = LossOn.AUTO
    precision: Precision = Precision.AUTO
    gradient_checkpointing: Choice = Field("auto", description="auto: where the activations would not fit")
    compile: Choice = Field("auto", description="decoder layers; auto: on a GPU, where enough steps pay for it")
    activation_offloading: Choice = Field("auto", description="to the host's memory; auto: only to survive")
    early_stopping: EarlyStopping | None = None
    evaluate_every: int | None = Field(
        None, ge=1, strict=True, description="steps between two looks at the validation loss; null: 10 in all"
    )
    log_every: int = Field(1, ge=1, le=10_000, strict=True, description="steps between two metrics")
    seed: int = Field(0, ge=0, le=2**31 - 1, strict=True)

    @field_validator("batch_size", "micro_batch_size")
    @classmethod
    def _counted(cls, size: int | Auto) -> int | Auto:
        if size != "auto" and not 1 <= size <= 65_536:
            msg = "is auto, or from 1 to 65536"
            raise ValueError(msg)
        return size

    @model_validator(mode="after")
    def _agrees(self) -> "Training":
        if self.steps is not None and "epochs" in self.model_fields_set:
            msg = "give epochs or steps, not both"
            raise ValueError(msg)
        sizes = self.batch_size, self.micro_batch_size
        if isinstance(sizes[0], int) and isinstance(sizes[1], int) and sizes[0] % sizes[1]:
            msg = "micro_batch_size does not divide batch_size"
            raise ValueError(msg)
        if self.compile is True and self.activation_offloading is True:
            msg = "layers are not compiled where activations are offloaded: leave one of the two to auto"
            raise ValueError(msg)
        return self

    @model_serializer(mode="wrap")
    def _told(self, told: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without epochs where steps count, so that what is written can be read again."""
        return _without(told(self), "epochs" if self.steps is not None else None)


class Checkpoints(Contract):
    """When the run is saved. Its last step always is."""

    every_steps: int | None = Field(None, ge=1, strict=True, description="null: by time alone")
    every_minutes: float = Field(10.0, gt=0, le=1440)
    keep: int = Field(3, ge=1, le=100, strict=True, description="the newest so many stay, and the best")


class Preparation(Contract):
    """What is done to the data before it is trained on; a report says what was left out, and why."""

    deduplicate: bool = Field(True, description="leave out samples that differ in case and white space alone")
    near_duplicates: float | None = Field(
        None, ge=0.5, le=1, description="leave out samples whose words are alike by so much (Jaccard, MinHash)"
    )
    min_characters: int = Field(1, ge=1, strict=True)
    max_characters: int | None = Field(None, ge=1, strict=True)
    quality: bool = Field(False, description="leave out what is hardly text: repetition, symbols, broken encoding")
    reference: list[Source] = Field(
        default_factory=list, max_length=16, description="texts of the domain: the most similar samples stay"
    )
    share: float = Field(0.2, gt=0, le=1, description="of the samples, by TF-IDF similarity to the reference")

    @model_validator(mode="after")
    def _referred(self) -> "Preparation":
        check_sources(self.reference)
        check_unweighed(self.reference)
        if "share" in self.model_fields_set and not self.reference:
            msg = "share needs reference texts"
            raise ValueError(msg)
        return self

    @model_serializer(mode="wrap")
    def _told(self, told: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a share of nothing, so that what is written can be read again."""
        return _without(told(self), None if self.reference else "share")


class TuningSpec(Contract):
    """Train a model on examples: an adapter, or all of its weights."""

    model: Name = Field(description="the base")
    data: list[Source] = Field(
        min_length=1,
        max_length=64,
        description="chats, prompts with completions, or texts; a weight is how often each sample is seen in an epoch",
    )
    validation: list[Source] = Field(default_factory=list, max_length=16)
    validation_share: float | None = Field(
        None, gt=0, le=0.5, description="part of the data that is kept from training, to look at its loss"
    )
    preparation: Preparation | None = Field(None, description="null: the data is taken as it is")
    method: Method = Method.LORA
    lora: Lora | None = Field(None, description="null: rank 16 on every linear layer")
    training: Training = Training()
    checkpoints: Checkpoints = Checkpoints()
    name: Name | None = Field(None, description="of the new model; null: ft:{base}:{tenant}:{suffix}:{id}")
    suffix: Annotated[Text, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")] | None = None
    alias: Name | None = Field(None, description="another name that stands for the new version from now on")
    serving: Serving = Field(Serving(), description="how engines run the new version; not of an adapter")
    serve: bool = Field(True, description="have it loaded where its base is, or start an engine for it")
    checkpoint_models: bool = Field(False, description="every kept checkpoint answers too, as NAME:ckpt-step-N")
    devices: Literal[1, 2, 4, 8] = Field(1, description="GPUs of one host that share the work (FSDP2); not on cpu")

    @field_validator("data", "validation")
    @classmethod
    def _distinct(cls, data: list[Source]) -> list[Source]:
        check_sources(data)
        return data

    @field_validator("validation")
    @classmethod
    def _unweighed(cls, validation: list[Source]) -> list[Source]:
        check_unweighed(validation)
        return validation

    @field_validator("validation_share")
    @classmethod
    def _either(cls, share: float | None, info: ValidationInfo) -> float | None:
        if share is not None and info.data.get("validation"):
            msg = "give validation data or validation_share, not both"
            raise ValueError(msg)
        return share

    @model_validator(mode="after")
    def _agrees(self) -> "TuningSpec":
        if self.lora is not None and not self.method.adapts:
            msg = "method full trains every weight: leave lora out"
            raise ValueError(msg)
        if self.training.early_stopping and not (self.validation or self.validation_share):
            msg = "early_stopping needs validation data or validation_share"
            raise ValueError(msg)
        if self.training.evaluate_every and not (self.validation or self.validation_share):
            msg = "evaluate_every needs validation data or validation_share"
            raise ValueError(msg)
        if self.training.precision is Precision.FP16 and self.devices > 1:
            msg = "fp16 is scaled on one device alone: take bf16 or fp32"
            raise ValueError(msg)
        if self.name is not None and self.suffix is not None:
            msg = "suffix is part of the name that is made where none is given"
            raise ValueError(msg)
        if self.checkpoint_models and self.method is Method.DORA:
            msg = "no engine serves DoRA's checkpoints before they are merged"
            raise ValueError(msg)
        return self


class MergeSpec(Contract):
    """Add an adapter to its base: a whole checkpoint, which every engine serves, and which can be quantized."""

    model: Name = Field(description="the adapter")
    name: Name | None = Field(None, description="of the new model; null: the adapter's with -merged")
    alias: Name | None = None
    serving: Serving = Serving()
