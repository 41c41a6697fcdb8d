"""`modelyard quantize`: a smaller version of a model, judged beside the original, registered and served at once."""

from typing import Annotated, Any
from uuid import UUID

import typer

from services.cli import compression_options as options
from services.cli.calling import command
from services.cli.client import Client
from services.cli.compression_options import (
    Answers,
    Choices,
    Detach,
    Gates,
    GpuClass,
    NoSpeed,
    Reference,
    Samples,
    Seed,
    SequenceLength,
    Share,
    Strategies,
    Tasks,
    TextFiles,
)
from services.cli.compression_view import telling
from services.cli.job_request import check, only_given
from services.cli.model_jobs import Order, run
from services.cli.output import AsJson
from services.cli.sources import Given, given
from services.cli.waiting import Timeout
from shared.contracts.compression import Method, QuantizationSpec, Scheme

RECOMMENDED = "recommended"
SCHEMES = ", ".join(Scheme)

app = typer.Typer(add_completion=False)


@command(app)
def quantize(  # noqa: PLR0913 - each is an option of the command
    client: Client,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, an alias, NAME@VERSION, or a version's id.")],
    *,
    scheme: Annotated[
        str, typer.Option("--scheme", "-s", help=f"{SCHEMES}; or {RECOMMENDED}: what the calibration recommends.")
    ],
    name: Annotated[str | None, typer.Option("--name", "-n", help="Of the new model; MODEL-SCHEME by default.")] = None,
    method: Annotated[
        Method | None, typer.Option(help="How weights are rounded; what the scheme does best with.")
    ] = None,
    group_size: Annotated[int | None, typer.Option(help="w4a16: columns that share a scale; 128 by default.")] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Layers that stay as they are, instead of lm_head; may be repeated."),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=SCHEME", help="Another scheme for some layers; SCHEME:SIZE sets the group size."),
    ] = None,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:WEIGHT]|ID", help="JSONL texts, or one calibration's id; library text by default; repeat it."
        ),
    ] = None,
    samples: Samples = None,
    sequence_length: SequenceLength = None,
    strategy: Strategies = None,
    reference: Reference = None,
    share: Share = None,
    seed: Seed = None,
    smoothing: Annotated[
        float | None, typer.Option(help="int8: strength of SmoothQuant, 0 to 1; 0.5 by default.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(metavar="1|2|4|8", help="GPUs that share the calibration samples; 1 by default.")
    ] = None,
    gate: Gates = None,
    text: TextFiles = None,
    choices: Choices = None,
    answers: Answers = None,
    no_evaluate: Annotated[bool, typer.Option("--no-evaluate", help="Register it without looking at it.")] = False,
    no_speed: NoSpeed = False,
    alias: Annotated[str | None, typer.Option(help="Another name that will stand for the new version.")] = None,
    gpu_class: GpuClass = None,
    detach: Detach = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Quantize a model, measure what that cost, and register the result: `modelyard chat NAME` talks to it at once.

    With --json one object at the end: the ids of job, model, artifact and evaluation. Exit codes: 0 done, 1 failed or
    the gate was not met (nothing is registered then), 7 cancelled, 8 expired, 6 not within --timeout. Ctrl-C leaves
    the job running.
    """
    tasks = Tasks.named(text, choices, answers)
    if no_evaluate and (gate or tasks.files):
        raise typer.BadParameter("there is nothing to judge with --no-evaluate", param_hint="--no-evaluate")
    known, data = _calibration(calibration)
    like = given(reference, "--reference")
    sampling = options.sampling(
        samples=samples, sequence_length=sequence_length, strategy=strategy, reference=like, share=share, seed=seed
    )
    evaluation = {"tasks": tasks.spec(), "speed": not no_speed}
    spec = only_given({
        "model": model, "name": name, "scheme": scheme, "method": method and method.value, "group_size": group_size,
        "ignore": ignore, "overrides": _overrides(override), "smoothing_strength": smoothing, "calibration": known,
        "data": [each.source for each in data], "sampling": sampling, "devices": devices, "gate": options.gate(gate),
        "alias": alias,
    })  # fmt: skip
    spec["evaluation"] = None if no_evaluate else evaluation
    check(QuantizationSpec, spec)
    order = Order("quantization", spec, [*data, *like, *tasks.files], gpu_class)
    run(client, order, telling(order.kind, as_json=as_json), detach=detach, timeout_s=timeout)


def _calibration(names: list[str] | None) -> tuple[str | None, list[Given]]:
    """The id of a calibration, or the texts to calibrate with. Raises typer.BadParameter."""
    ids = [name for name in names or () if _is_id(name)]
    if ids and len(names or ()) > 1:
        raise typer.BadParameter("a calibration brings its samples along: give it alone", param_hint="--calibration")
    return (ids[0], []) if ids else (None, given(names, "--calibration"))


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _overrides(given: list[str] | None) -> list[dict[str, Any]]:
    """`PATTERN=SCHEME[:SIZE]`, those of one scheme together. Raises typer.BadParameter."""
    found: dict[str, list[str]] = {}
    for text in given or ():
        pattern, equals, scheme = text.rpartition("=")  # an expression may have one of its own
        if not equals or not pattern:
            raise typer.BadParameter(f"{text!r} is not PATTERN=SCHEME", param_hint="--override")
        found.setdefault(scheme, []).append(pattern)
    return [_override(scheme, patterns) for scheme, patterns in found.items()]


def _override(text: str, patterns: list[str]) -> dict[str, Any]:
    scheme, colon, size = text.partition(":")
    if colon and not size.isdigit():
        raise typer.BadParameter(f"{size!r} is no group size", param_hint="--override")
    return {"layers": patterns, "scheme": scheme} | ({"group_size": int(size)} if colon else {})
