"""`modelyard calibrate`: what a model's layers see, what each scheme would cost them, and what is recommended."""

from typing import Annotated

import typer

from services.cli import compression_options as options
from services.cli.calling import command
from services.cli.client import Client
from services.cli.compression_options import (
    Detach,
    GpuClass,
    Reference,
    Samples,
    Seed,
    SequenceLength,
    Share,
    Strategies,
)
from services.cli.compression_view import telling
from services.cli.job_request import check, only_given
from services.cli.model_jobs import Order, run
from services.cli.output import AsJson
from services.cli.sources import given
from services.cli.waiting import Timeout
from shared.contracts.compression import CalibrationSpec, Scheme

app = typer.Typer(add_completion=False)


@command(app)
def calibrate(  # noqa: PLR0913 - each is an option of the command
    client: Client,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, an alias, NAME@VERSION, or a version's id.")],
    *,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            "--calibration",
            "--text",
            metavar="FILE[:WEIGHT]|ID",
            help="JSONL texts or chats; library text by default; may be repeated.",
        ),
    ] = None,
    samples: Samples = None,
    sequence_length: SequenceLength = None,
    strategy: Strategies = None,
    reference: Reference = None,
    share: Share = None,
    seed: Seed = None,
    scheme: Annotated[
        list[Scheme] | None,
        typer.Option("--scheme", "-s", help="Candidates; int8, w8a16, w4a16 and fp8-dynamic by default; repeat it."),
    ] = None,
    group_size: Annotated[int | None, typer.Option(help="Of candidates with groups; 128 by default.")] = None,
    gpu_class: GpuClass = None,
    detach: Detach = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Run texts through a model, and find out how well it can be quantized.

    What was asked before is there at once. `modelyard quantize MODEL --scheme recommended --calibration ID` goes on
    from there. With --json one object at the end: the ids of job and artifact. Exit codes: 0 done, 1 failed,
    7 cancelled, 8 expired, 6 not within --timeout. Ctrl-C leaves the job running.
    """
    texts = given(calibration, "--calibration")
    like = given(reference, "--reference")
    sampling = options.sampling(
        samples=samples, sequence_length=sequence_length, strategy=strategy, reference=like, share=share, seed=seed
    )
    spec = only_given({
        "model": model, "data": [each.source for each in texts], "sampling": sampling,
        "schemes": [each.value for each in scheme or ()], "group_size": group_size,
    })  # fmt: skip
    check(CalibrationSpec, spec)
    order = Order("calibration", spec, [*texts, *like], gpu_class)
    run(client, order, telling(order.kind, as_json=as_json), detach=detach, timeout_s=timeout)
