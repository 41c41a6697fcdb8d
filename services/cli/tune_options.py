"""Options of `modelyard tune`, in the groups of a spec, and the parts of a spec that become of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import typer

from services.cli.job_request import SPANS, count_or_auto, only_given
from services.cli.sources import Given, given
from shared.contracts.tuning import LossOn, Precision, Schedule

DATA, PREPARING, ADAPTER, TRAINING, MEMORY, SAVING, RESULT = (
    "Data",
    "Preparation of the data",
    "Adapter",
    "Training",
    "Memory and speed",
    "Checkpoints",
    "What is made",
)
FILES = "FILE[:WEIGHT]|ID"


@dataclass(frozen=True)
class DataOptions:
    """What is trained on, and what its loss is looked at on."""

    examples: Annotated[
        list[str],
        typer.Option(
            "--data", "-d", metavar=FILES, rich_help_panel=DATA,
            help="JSONL chats, prompts with completions, or texts; library is library text; may be repeated.",
        ),
    ]  # fmt: skip
    validation: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|ID", rich_help_panel=DATA, help="The same, to look at its loss; may be repeated."),
    ] = None
    validation_share: Annotated[
        float | None, typer.Option(rich_help_panel=DATA, help="Part of the data that is kept from training for that.")
    ] = None

    @cached_property
    def sources(self) -> list[Given]:
        """The data. Raises typer.BadParameter: a file is not there."""
        return given(self.examples, "--data")

    @cached_property
    def held_out(self) -> list[Given]:
        """The validation data. Raises typer.BadParameter: a file is not there."""
        return given(self.validation, "--validation")

    def spec(self) -> dict[str, Any]:
        """Fields of a spec."""
        return {
            "data": [each.source for each in self.sources],
            "validation": [each.source for each in self.held_out],
            "validation_share": self.validation_share,
        }


@dataclass(frozen=True)
class PreparationOptions:
    """What is done to the data first; nothing unless one of them is given."""

    prepare: Annotated[
        bool,
        typer.Option("--prepare", rich_help_panel=PREPARING, help="Leave out duplicates; any option here implies it."),
    ] = False
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", rich_help_panel=PREPARING, help="Prepare, but keep them.")
    ] = False
    near_duplicates: Annotated[
        float | None,
        typer.Option(rich_help_panel=PREPARING, help="Leave out what is alike by so much, 0.5 to 1 (Jaccard)."),
    ] = None
    quality: Annotated[
        bool, typer.Option("--quality", rich_help_panel=PREPARING, help="Leave out what is hardly text.")
    ] = False
    min_characters: Annotated[
        int | None, typer.Option(rich_help_panel=PREPARING, help="Leave out shorter samples.")
    ] = None
    max_characters: Annotated[int | None, typer.Option(rich_help_panel=PREPARING, help="Leave out longer samples.")] = (
        None
    )
    reference: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|ID",
            rich_help_panel=PREPARING,
            help="Texts of the domain: what is like them stays; repeat it.",
        ),
    ] = None
    share: Annotated[
        float | None, typer.Option(rich_help_panel=PREPARING, help="The part that is like them enough; 0.2 by default.")
    ] = None

    @cached_property
    def domain(self) -> list[Given]:
        """Texts of the domain. Raises typer.BadParameter: a file is not there."""
        return given(self.reference, "--reference")

    def spec(self) -> dict[str, Any] | None:
        """The `preparation` of a spec; None where none was asked for."""
        found = only_given({
            "deduplicate": False if self.keep_duplicates else None, "near_duplicates": self.near_duplicates,
            "quality": self.quality or None, "min_characters": self.min_characters,
            "max_characters": self.max_characters, "reference": [each.source for each in self.domain],
            "share": self.share,
        })  # fmt: skip
        return found if found or self.prepare else None


@dataclass(frozen=True)
class AdapterOptions:
    """The adapter's shape."""

    rank: Annotated[int | None, typer.Option("--rank", "-r", rich_help_panel=ADAPTER, help="16 by default.")] = None
    alpha: Annotated[float | None, typer.Option(rich_help_panel=ADAPTER, help="Twice the rank by default.")] = None
    dropout: Annotated[float | None, typer.Option(rich_help_panel=ADAPTER, help="0 by default.")] = None
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE", rich_help_panel=ADAPTER,
            help="Layers by the end of their names, as q_proj; every linear one but the head by default; repeat it.",
        ),
    ] = None  # fmt: skip

    def spec(self) -> dict[str, Any]:
        """The `lora` of a spec; empty where nothing was asked."""
        targets = self.target[0] if self.target == ["all-linear"] else self.target
        return only_given({"rank": self.rank, "alpha": self.alpha, "dropout": self.dropout, "target_modules": targets})


@dataclass(frozen=True)
class TrainingOptions:
    """How it is trained."""

    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", "--lr", rich_help_panel=TRAINING, help="2e-4, of method full 2e-5."),
    ] = None
    schedule: Annotated[
        Schedule | None, typer.Option(rich_help_panel=TRAINING, help="Of the learning rate; cosine by default.")
    ] = None
    warmup: Annotated[
        float | None, typer.Option(rich_help_panel=TRAINING, help="Part of the steps in which it grows; 0.03.")
    ] = None
    epochs: Annotated[float | None, typer.Option(rich_help_panel=TRAINING, help="3 by default; not with --steps.")] = (
        None
    )
    steps: Annotated[int | None, typer.Option(rich_help_panel=TRAINING, help="Instead of --epochs.")] = None
    batch_size: Annotated[
        str | None,
        typer.Option(metavar="N|auto", rich_help_panel=TRAINING, help="Samples of a step; auto: 16 at most."),
    ] = None
    weight_decay: Annotated[float | None, typer.Option(rich_help_panel=TRAINING, help="0 by default.")] = None
    max_grad_norm: Annotated[
        float | None, typer.Option(rich_help_panel=TRAINING, help="Longer gradients are cut; 1 by default.")
    ] = None
    label_smoothing: Annotated[float | None, typer.Option(rich_help_panel=TRAINING, help="0 by default.")] = None
    neftune: Annotated[
        float | None,
        typer.Option(rich_help_panel=TRAINING, help="Noise on embeddings; none by default."),
    ] = None
    max_length: Annotated[
        int | None, typer.Option(rich_help_panel=TRAINING, help="Tokens of a sample; the data's, at most 2048.")
    ] = None
    too_long: Annotated[
        str | None,
        typer.Option(metavar="refuse|truncate|drop", rich_help_panel=TRAINING, help="Of longer samples; refuse."),
    ] = None
    packing: Annotated[
        bool, typer.Option("--packing", rich_help_panel=TRAINING, help="Several samples a row, each for itself.")
    ] = False
    loss_on: Annotated[
        LossOn | None, typer.Option(rich_help_panel=TRAINING, help="Tokens that are learned; the answers by default.")
    ] = None
    early_stopping: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=TRAINING,
            help="End after N looks at the validation loss without a better one.",
        ),
    ] = None
    early_stopping_threshold: Annotated[
        float | None, typer.Option(rich_help_panel=TRAINING, help="A smaller improvement is none; 0 by default.")
    ] = None
    evaluate_every: Annotated[
        int | None, typer.Option(rich_help_panel=TRAINING, help="Steps between two such looks; 10 looks by default.")
    ] = None
    log_every: Annotated[
        int | None, typer.Option(rich_help_panel=TRAINING, help="Steps between two metrics; 1 by default.")
    ] = None
    seed: Annotated[int | None, typer.Option(rich_help_panel=TRAINING, help="0 by default.")] = None

    def spec(self) -> dict[str, Any]:
        """Fields of the `training` of a spec. Raises typer.BadParameter."""
        return only_given({
            "learning_rate": self.learning_rate, "schedule": self.schedule and self.schedule.value,
            "warmup": self.warmup, "epochs": self.epochs, "steps": self.steps,
            "batch_size": count_or_auto(self.batch_size, "--batch-size"), "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm, "label_smoothing": self.label_smoothing,
            "neftune_alpha": self.neftune, "max_length": self.max_length, "too_long": self.too_long,
            "packing": self.packing or None, "loss_on": self.loss_on and self.loss_on.value,
            "early_stopping": self._stopping(), "evaluate_every": self.evaluate_every, "log_every": self.log_every,
            "seed": self.seed,
        })  # fmt: skip

    def _stopping(self) -> dict[str, Any] | None:
        if self.early_stopping is None and self.early_stopping_threshold is not None:
            raise typer.BadParameter("goes with --early-stopping", param_hint="--early-stopping-threshold")
        found = only_given({"patience": self.early_stopping, "threshold": self.early_stopping_threshold})
        return found or None


@dataclass(frozen=True)
class MemoryOptions:
    """What it takes of the devices. What is not given is decided by the memory and the device at hand."""

    gpu_class: Annotated[
        str | None, typer.Option(rich_help_panel=MEMORY, help="GPU class, or auto: the cheapest that fits.")
    ] = None
    devices: Annotated[
        int | None, typer.Option(metavar="1|2|4|8", rich_help_panel=MEMORY, help="GPUs that share it (FSDP2); 1.")
    ] = None
    precision: Annotated[
        Precision | None, typer.Option(rich_help_panel=MEMORY, help="auto: bf16 on a GPU, fp32 on a CPU.")
    ] = None
    micro_batch_size: Annotated[
        str | None,
        typer.Option(metavar="N|auto", rich_help_panel=MEMORY, help="Samples that a device holds at once; auto: most."),
    ] = None
    gradient_checkpointing: Annotated[
        bool | None, typer.Option(rich_help_panel=MEMORY, help="Compute activations twice instead of keeping them.")
    ] = None
    compile: Annotated[bool | None, typer.Option(rich_help_panel=MEMORY, help="Compile the decoder's layers.")] = None
    activation_offloading: Annotated[
        bool | None, typer.Option(rich_help_panel=MEMORY, help="Keep activations in the host's memory.")
    ] = None

    def spec(self) -> dict[str, Any]:
        """Fields of the `training` of a spec. Raises typer.BadParameter."""
        return only_given({
            "precision": self.precision and self.precision.value,
            "micro_batch_size": count_or_auto(self.micro_batch_size, "--micro-batch-size"),
            "gradient_checkpointing": self.gradient_checkpointing, "compile": self.compile,
            "activation_offloading": self.activation_offloading,
        })  # fmt: skip


@dataclass(frozen=True)
class SavingOptions:
    """Where a run goes on from when its worker dies."""

    checkpoint_every: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STEPS|TIME", rich_help_panel=SAVING,
            help="Steps, or a time as 90s, 2h; 10m by default; once of each. The last step always is one.",
        ),
    ] = None  # fmt: skip
    keep: Annotated[
        int | None, typer.Option(rich_help_panel=SAVING, help="The newest so many, and the best; 3 by default.")
    ] = None
    checkpoint_models: Annotated[
        bool, typer.Option("--checkpoint-models", rich_help_panel=SAVING, help="They answer too, as NAME:ckpt-step-N.")
    ] = False

    def spec(self) -> dict[str, Any]:
        """The `checkpoints` of a spec. Raises typer.BadParameter."""
        return only_given({**_spans(self.checkpoint_every or ()), "keep": self.keep})


def _spans(texts: Sequence[str]) -> dict[str, float]:
    """Steps and times between checkpoints. Raises typer.BadParameter."""
    found = dict[str, float]()
    for text in texts:
        number, unit = text[:-1], text[-1:]
        if text.isdecimal():
            found["every_steps"] = int(text)
        elif unit in SPANS and number.replace(".", "", 1).isdecimal():
            found["every_minutes"] = float(number) * SPANS[unit] / 60
        else:
            message = f"{text!r} is neither a number of steps nor a time (90s, 10m, 2h)"
            raise typer.BadParameter(message, param_hint="--checkpoint-every")
    if len(found) < len(texts):
        raise typer.BadParameter("is given once in steps and once in time", param_hint="--checkpoint-every")
    return found
