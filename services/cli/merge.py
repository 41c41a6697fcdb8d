"""`modelyard merge`: an adapter and its base made one checkpoint."""

from typing import Annotated

import typer

from services.cli.calling import command
from services.cli.chains import Chain, Then
from services.cli.client import Client
from services.cli.compression_options import Detach, GpuClass
from services.cli.job_request import check, nested, only_given
from services.cli.model_jobs import Order, Telling, run
from services.cli.output import AsJson
from services.cli.tune import TOLD
from services.cli.tuning_view import show_made
from services.cli.waiting import Timeout
from services.files.service import Purpose
from shared.contracts.tuning import MergeSpec

app = typer.Typer(add_completion=False)


@command(app)
def merge(  # noqa: PLR0913 - each is an option of the command
    client: Client,
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="A name, an alias, NAME@VERSION, or a version's id.")
    ],
    *,
    name: Annotated[str | None, typer.Option("--name", "-n", help="ADAPTER-merged by default.")] = None,
    alias: Annotated[str | None, typer.Option(help="Another name that will stand for the new version.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A serving option; may be repeated.")
    ] = None,
    then: Then = None,
    gpu_class: GpuClass = None,
    detach: Detach = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Add an adapter to its base: a whole checkpoint, which every engine serves, and which can be quantized.

    With --json one object at the end: the ids of job, model and artifact, and as `then` those of the jobs that follow.
    Exit codes: 0 done, 1 failed, 7 cancelled, 8 expired, 6 not within --timeout. Ctrl-C leaves the job running.
    """
    spec = only_given({"model": adapter, "name": name, "alias": alias, "serving": nested(option or ())})
    check(MergeSpec, spec)
    chain = Chain(None, adapter=False, gpu_class=gpu_class)
    for step in then or ():
        chain.add(step)
    order = Order("merge", spec, chain.files, gpu_class, purpose=Purpose.FINE_TUNE, on_success=chain.first)
    run(client, order, Telling(TOLD, show_made, as_json, chained=True), detach=detach, timeout_s=timeout)
