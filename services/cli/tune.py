"""`modelyard tune`: a model trained on examples, registered, and served the moment it is done."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from services.cli.calling import command
from services.cli.chains import Chain, Then
from services.cli.client import Client
from services.cli.compression_options import Detach
from services.cli.job_request import check, nested, only_given
from services.cli.model_jobs import Order, Telling, run, sent
from services.cli.option_groups import grouped
from services.cli.output import AsJson, emit
from services.cli.tune_options import (
    RESULT,
    AdapterOptions,
    DataOptions,
    MemoryOptions,
    PreparationOptions,
    SavingOptions,
    TrainingOptions,
)
from services.cli.tune_watching import Losses
from services.cli.tuning_view import show_advice, show_made
from services.cli.waiting import Timeout
from services.cli.yard import Yard
from services.files.service import Purpose
from shared.contracts.tuning import Method, TuningSpec

TOLD = ("job", "model", "artifact")  #: what is printed with --json, in this order, before `then`

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class ResultOptions:
    """The new model: what it is called, and what becomes of it."""

    name: Annotated[
        str | None, typer.Option("--name", "-n", rich_help_panel=RESULT, help="ft:BASE:TENANT:SUFFIX:ID by default.")
    ] = None
    suffix: Annotated[str | None, typer.Option(rich_help_panel=RESULT, help="Part of that name.")] = None
    alias: Annotated[
        str | None, typer.Option(rich_help_panel=RESULT, help="Another name that will stand for the new version.")
    ] = None
    no_serve: Annotated[
        bool, typer.Option("--no-serve", rich_help_panel=RESULT, help="Do not load it ahead of its first call.")
    ] = False
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", rich_help_panel=RESULT,
            help="A serving option, of methods that make a whole model (dora, full); may be repeated.",
        ),
    ] = None  # fmt: skip

    def spec(self) -> dict[str, Any]:
        """Fields of a spec. Raises typer.BadParameter."""
        return {
            "name": self.name, "suffix": self.suffix, "alias": self.alias, "serve": False if self.no_serve else None,
            "serving": nested(self.option or ()),
        }  # fmt: skip


@command(app, folder=Yard)
@grouped
def tune(  # noqa: PLR0913 - each is an option, or a group of options, of the command
    client: Client,
    base: Annotated[str, typer.Argument(metavar="BASE", help="A name, an alias, NAME@VERSION, or a version's id.")],
    *,
    data: DataOptions,
    method: Annotated[
        Method, typer.Option("--method", "-m", help="dora and full make a whole model, the others an adapter.")
    ] = Method.LORA,
    adapter: AdapterOptions,
    training: TrainingOptions,
    memory: MemoryOptions,
    preparation: PreparationOptions,
    saving: SavingOptions,
    result: ResultOptions,
    then: Then = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send the files, say memory, time and cost, and start nothing.")
    ] = False,
    detach: Detach = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Train a model on examples: `modelyard chat NAME` talks to the result seconds after the end.

    With --json one object at the end: the ids of job, model and artifact, and as `then` those of the jobs that follow.
    Exit codes: 0 done, 1 failed, 7 cancelled, 8 expired, 6 not within --timeout. Ctrl-C leaves the job running.
    """
    if dry_run and detach:
        raise typer.BadParameter("nothing is started with --dry-run", param_hint="--detach")
    spec = only_given({
        "model": base, "method": method.value, **data.spec(), "preparation": preparation.spec(),
        "lora": adapter.spec(), "training": training.spec() | memory.spec(), "checkpoints": saving.spec(),
        "checkpoint_models": saving.checkpoint_models or None, "devices": memory.devices, **result.spec(),
    })  # fmt: skip
    if preparation.prepare:
        spec.setdefault("preparation", {})  # no more than what is always done
    check(TuningSpec, spec)
    chain = Chain(base, adapter=not method.merged, texts=data.held_out, gpu_class=memory.gpu_class)
    for step in then or ():
        chain.add(step)
    files = [*data.sources, *data.held_out, *preparation.domain, *chain.files]
    order = Order("tuning", spec, files, memory.gpu_class, purpose=Purpose.FINE_TUNE, on_success=chain.first)
    if dry_run:
        _plan(client, order, as_json=as_json)
        return
    run(
        client, order, Telling(TOLD, show_made, as_json, chained=True), detach=detach, timeout_s=timeout, watched=Losses
    )


def _plan(client: Client, order: Order, *, as_json: bool) -> None:
    """Say what a job would take. Its files stay: the plan needs their sizes, and the job itself sends them no more."""
    with sent(client, order) as body:
        draft = client.post("/v1/jobs", body, validate_only="true")
    emit(draft) if as_json else show_advice(draft)
