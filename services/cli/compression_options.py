"""Options that `quantize`, `calibrate` and `evaluate` share, and the parts of a spec that become of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from services.cli.job_request import only_given, pairs
from services.cli.sources import Given, given
from shared.contracts.compression import Strategy
from shared.contracts.evaluation import Gate

Samples = Annotated[int | None, typer.Option(help="Calibration samples; 128 by default.")]
SequenceLength = Annotated[
    int | None, typer.Option(help="Tokens of a sample; 2048 by default, or the model's context.")
]
Strategies = Annotated[
    Strategy | None, typer.Option(help="Which samples are taken of those that there are; random by default.")
]
Reference = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE|ID", help="Strategy domain: texts like those that the model will see; may be repeated."),
]
Share = Annotated[float | None, typer.Option(help="Strategy domain: the part of the texts that is similar enough.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the choice of samples; 0 by default.")]
Gates = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        metavar="NAME=NUMBER",
        help="What must be reached: max_ppl_increase (0.02 is 2%), min_agreement, max_kl_divergence; may be repeated.",
    ),
]
TextFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--text", metavar="FILE|ID", help="Texts for the perplexity, held-out library text by default; may be repeated."
    ),
]
Choices = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE|ID", help="Multiple choice: lines of prompt, choices and answer; may be repeated."),
]
Answers = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE|ID", help="Right answers: lines of prompt or messages, and answer; may be repeated."),
]
NoSpeed = Annotated[bool, typer.Option("--no-speed", help="Do not load the models into engines to time them.")]
GpuClass = Annotated[str | None, typer.Option(help="GPU class, or auto: the cheapest that fits.")]
Detach = Annotated[bool, typer.Option("--detach", help="Do not wait: say the job's id.")]


@dataclass(frozen=True)
class Tasks:
    """What models are judged by. Perplexity always is."""

    text: Sequence[Given] = ()
    choices: Sequence[Given] = ()
    answers: Sequence[Given] = ()
    samples: int | None = None
    sequence_length: int | None = None
    max_tokens: int | None = None
    metrics: Sequence[str] = ()

    @classmethod
    def named(
        cls, text: list[str] | None, choices: list[str] | None, answers: list[str] | None, **more: Any
    ) -> "Tasks":
        """From options. Raises typer.BadParameter: a file is not there."""
        return cls(given(text, "--text"), given(choices, "--choices"), given(answers, "--answers"), **more)

    @property
    def files(self) -> list[Given]:
        return [*self.text, *self.choices, *self.answers]

    def spec(self) -> list[dict[str, Any]]:
        """The `tasks` of a spec."""
        data = [each.source for each in self.text]
        tasks: list[dict[str, Any]] = [{"type": "text", "data": data, "sequence_length": self.sequence_length}]
        tasks += [{"type": "choice", **each} for each in _named("choice", self.choices)]
        more = {"max_tokens": self.max_tokens, "metrics": list(self.metrics)}
        tasks += [{"type": "generation", **each, **more} for each in _named("generation", self.answers)]
        return [only_given({**task, "samples": self.samples}) for task in tasks]


def _named(kind: str, files: Sequence[Given]) -> list[dict[str, str]]:
    """Names and files of tasks: `choice`, `choice-2` and so on."""
    names = [kind if number == 1 else f"{kind}-{number}" for number in range(1, len(files) + 1)]
    return [{"name": name, "file_id": each.file["file_id"]} for name, each in zip(names, files, strict=True)]


def sampling(
    *,
    samples: int | None,
    sequence_length: int | None,
    strategy: Strategy | None,
    reference: Sequence[Given],
    share: float | None,
    seed: int | None,
) -> dict[str, Any]:
    """The `sampling` of a spec; empty where nothing was asked. Texts to be like ask for the strategy domain."""
    found = only_given({
        "samples": samples, "sequence_length": sequence_length, "strategy": strategy and strategy.value,
        "share": share, "seed": seed, "reference": [each.source for each in reference],
    })  # fmt: skip
    return {"strategy": Strategy.DOMAIN.value, **found} if reference else found


def gate(limits: Sequence[str] | None) -> dict[str, float] | None:
    """The `gate` of a spec: `NAME=NUMBER` options, fractions as they are. Raises typer.BadParameter."""
    found = {}
    for name, text in pairs(limits or (), "--gate").items():
        if name not in Gate.model_fields:
            known = ", ".join(Gate.model_fields)
            raise typer.BadParameter(f"{name} is no limit: there are {known}", param_hint="--gate")
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise typer.BadParameter(f"{name}={text} is not a number; 0.02 is 2%", param_hint="--gate")
    return found or None
