"""`modelyard evaluate`: how good a model is, alone or beside another one."""

from typing import Annotated

import typer

from services.cli import compression_options as options
from services.cli.calling import command
from services.cli.client import Client
from services.cli.compression_options import Answers, Choices, Detach, Gates, GpuClass, NoSpeed, Tasks, TextFiles
from services.cli.compression_view import telling
from services.cli.job_request import check, only_given
from services.cli.model_jobs import Order, run
from services.cli.output import AsJson
from services.cli.waiting import Timeout
from shared.contracts.evaluation import METRICS, EvaluationSpec

app = typer.Typer(add_completion=False)


@command(app)
def evaluate(  # noqa: PLR0913 - each is an option of the command
    client: Client,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, an alias, NAME@VERSION, or a version's id.")],
    *,
    baseline: Annotated[
        str | None, typer.Option("--baseline", "-b", help="The model that it is compared with.")
    ] = None,
    text: TextFiles = None,
    choices: Choices = None,
    answers: Answers = None,
    samples: Annotated[int | None, typer.Option(help="Of each task at most: sequences, questions, answers.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens of a sequence of text; 512 by default.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens; 64 by default.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help=f"Of answers; {', '.join(METRICS)} by default; may be repeated.")
    ] = None,
    gate: Gates = None,
    no_speed: NoSpeed = False,
    gpu_class: GpuClass = None,
    detach: Detach = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model: perplexity always; choices and answers where files of them are given.

    With --json one object at the end: the ids of job and evaluation. Exit codes: 0 done, 1 failed or the gate was not
    met, 7 cancelled, 8 expired, 6 not within --timeout. Ctrl-C leaves the job running.
    """
    tasks = Tasks.named(
        text, choices, answers,
        samples=samples, sequence_length=sequence_length, max_tokens=max_tokens, metrics=metric or (),
    )  # fmt: skip
    spec = only_given({
        "model": model, "baseline": baseline, "tasks": tasks.spec(), "speed": not no_speed, "gate": options.gate(gate),
    })  # fmt: skip
    check(EvaluationSpec, spec)
    order = Order("evaluation", spec, tasks.files, gpu_class)
    run(client, order, telling(order.kind, as_json=as_json), detach=detach, timeout_s=timeout)
