"""`modelyard jobs …`: submit work, watch it, stop it."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import job_request, job_view
from services.cli.calling import command
from services.cli.client import Client
from services.cli.following import follow, known_events
from services.cli.listing import All, Limit, listing
from services.cli.output import AsJson, emit, note, say
from services.cli.tuning_view import show_metrics
from services.cli.waiting import Timeout, headline, until_end, verdict
from shared.contracts.jobs import State, Tier

PAGE = 100  # rows of a page that a list asks for
LOG_POLL_S = 1.0

app = typer.Typer(help="Submit work, watch it, stop it.", no_args_is_help=True, add_completion=False)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]


@command(app)
def submit(  # noqa: PLR0913 - each is an option of the command
    client: Client,
    kind: Annotated[str | None, typer.Option(help="Kind of the job; inference unless said otherwise.")] = None,
    *,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Model to run, such as yard-tiny.")] = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="A prompt; may be repeated.")] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            allow_dash=True,
            help='Prompts, one a line (- is standard input); in a .jsonl file {"prompt": …} or {"messages": […]}.',
        ),
    ] = None,
    input_file: Annotated[str | None, typer.Option(help="Id of an uploaded JSONL file with the lines.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Each prompt is what a user says in a chat.")] = False,
    system: Annotated[str | None, typer.Option(help="System message of every chat; implies --chat.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest output of a line, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample among so many tokens; 0 is off.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends a line's output; may be repeated.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE: any other field of the spec, in JSON or as text.")
    ] = None,
    gpu_class: Annotated[str | None, typer.Option(help="GPU class, or auto: the cheapest that fits.")] = None,
    tier: Annotated[Tier | None, typer.Option(help="Class of service in the queue.")] = None,
    priority: Annotated[int | None, typer.Option(help="0–9, inside the tier; 9 goes first.")] = None,
    webhook: Annotated[str | None, typer.Option(help="URL that is told of the end, signed.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, returned as given; may be repeated.")] = None,
    deadline: Annotated[str | None, typer.Option(help="Expire if not done by then: a time, or 30m, 2h, 1d.")] = None,
    run_after: Annotated[str | None, typer.Option(help="Not before: a time, or 30m, 2h, 1d from now.")] = None,
    after: Annotated[str | None, typer.Option(help="Id of a job that has to succeed first.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Accept the job, but hold it until it is resumed.")] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", allow_dash=True, help="The whole request as JSON; - is standard input."),
    ] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="One job however often this is sent.")] = None,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Check and plan; start nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end; exit code as of `jobs wait`.")] = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job.

    Options that are not given are left to the platform. A request is sent again when no answer came, under
    one Idempotency-Key: it never makes two jobs.
    """
    texts = job_request.lines(prompt or (), prompts_file, chat=chat, system=system)
    spec = {
        "model": model, **texts, "input_file": input_file, "max_tokens": max_tokens, "temperature": temperature,
        "top_p": top_p, "top_k": top_k, "seed": seed, "stop": stop, **job_request.fields(set_ or ()),
    }  # fmt: skip
    request = {
        "gpu_class": gpu_class, "tier": tier, "priority": priority, "webhook": {"url": webhook} if webhook else None,
        "metadata": job_request.pairs(metadata or (), "--metadata"),
        "deadline": job_request.moment(deadline, "--deadline"),
        "run_after": job_request.moment(run_after, "--run-after"),
        "after_job_id": after, "paused": paused or None,
    }  # fmt: skip
    options = job_request.from_options(kind or "inference", spec=spec, request=request)
    if file is not None:
        if kind or options["spec"] or len(options) > len(("kind", "spec")):
            raise typer.BadParameter("holds the whole request: it goes with no option of the job", param_hint="--file")
        options = job_request.from_file(file)
    if validate_only:
        _show(client.post("/v1/jobs", options, validate_only="true"), job_view.show_plan, as_json=as_json)
        return
    job = client.post("/v1/jobs", options, key=idempotency_key)
    if wait:
        note(f"job {job['id']}")
        _wait(client, job, timeout, as_json=as_json)
    else:
        _show(job, job_view.show_job, as_json=as_json)


@command(app)
def get(client: Client, job: JobId, *, as_json: AsJson = False) -> None:
    """Show a job."""
    _show(client.get(f"/v1/jobs/{job}"), job_view.show_job, as_json=as_json)


@command(app, "list")
def list_jobs(
    client: Client,
    *,
    state: Annotated[list[State] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only jobs of this kind; may be repeated.")] = None,
    limit: Limit = 20,
    all_: All = False,
    after: Annotated[str | None, typer.Option(help="Go on behind the job of this id.")] = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    listing(
        client,
        "/v1/jobs",
        job_view.show_jobs,
        limit=limit,
        all_=all_,
        after=after,
        as_json=as_json,
        state=state,
        kind=kind,
    )


@command(app)
def wait(client: Client, job: JobId, *, timeout: Timeout = None, as_json: AsJson = False) -> None:
    """Wait until a job has ended.

    Exit codes: 0 succeeded, 1 failed, 7 cancelled, 8 expired, 6 not within --timeout.
    """
    _wait(client, {"id": job}, timeout, as_json=as_json)


@command(app)
def cancel(client: Client, job: JobId, *, as_json: AsJson = False) -> None:
    """Stop a job: at once when it waits, within seconds when it runs."""
    _show(client.post(f"/v1/jobs/{job}/cancel"), _short, as_json=as_json)


@command(app)
def pause(client: Client, job: JobId, *, as_json: AsJson = False) -> None:
    """Hold a job: what waits is not begun, what runs is put back at its next step."""
    _show(client.post(f"/v1/jobs/{job}/pause"), _short, as_json=as_json)


@command(app)
def resume(client: Client, job: JobId, *, as_json: AsJson = False) -> None:
    """Let a held job go on."""
    _show(client.post(f"/v1/jobs/{job}/resume"), _short, as_json=as_json)


@command(app)
def retry(client: Client, job: JobId, *, as_json: AsJson = False) -> None:
    """Run a finished job again, as a new job."""
    _show(client.post(f"/v1/jobs/{job}/retry"), job_view.show_job, as_json=as_json)


@command(app)
def explain(client: Client, job: JobId, *, as_json: AsJson = False) -> None:
    """Say why a job is where it is: its place in the queue, what it waits for, where it will run."""
    _show(client.get(f"/v1/jobs/{job}/explain"), job_view.show_explanation, as_json=as_json)


@command(app)
def events(
    client: Client,
    job: JobId,
    *,
    after: Annotated[int, typer.Option(min=0, help="Number of the last event that is known.")] = 0,
    follow_: Annotated[bool, typer.Option("--follow", help="Go on until the job has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a job's numbered events; with --follow and --json one object a line, as they happen."""
    if follow_:
        for event in follow(client, job, after=after):
            if event is not None:
                say(_line(event.raw) if as_json else headline(event))
        return
    known = list(known_events(client, job, after=after))
    if as_json:
        emit({"object": "list", "data": [event.raw for event in known], "has_more": False})
    else:
        for event in known:
            say(headline(event))


@command(app)
def logs(
    client: Client,
    job: JobId,
    *,
    follow_: Annotated[bool, typer.Option("--follow", help="Go on until the job has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a job's attempts wrote; with --follow and --json one object a line, as they come."""
    lines = _logs(client, job, follow_=follow_)
    if as_json and not follow_:
        emit({"object": "list", "data": list(lines), "has_more": False})
        return
    for line in lines:
        text = f"{line['created_at']} {line['attempt']} {line['level']} {line['message']}"
        say(_line(line) if as_json else job_view.clip(text, width=job_view.LONGEST))


@command(app)
def metrics(
    client: Client,
    job: JobId,
    *,
    limit: Limit = 100,
    all_: All = False,
    after: Annotated[str | None, typer.Option(help="Go on behind this step.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the figures of a job's steps, from the first on: of a tuning its loss, learning rate, speed."""
    path = f"/v1/jobs/{job}/metrics"
    listing(client, path, show_metrics, limit=limit, all_=all_, after=after, as_json=as_json)


def _logs(client: Client, job_id: str, *, follow_: bool) -> Iterator[dict[str, Any]]:
    """Lines of a job's log, oldest first; with `follow_` until it has ended."""
    after = 0
    while True:
        ended = not follow_ or State(client.get(f"/v1/jobs/{job_id}")["state"]).terminal
        more = True
        while more:
            page = client.get(f"/v1/jobs/{job_id}/logs", after=after, limit=PAGE)
            for line in page["data"]:
                yield line
                after = line["id"]
            more = page["has_more"]
        if ended:
            return
        time.sleep(LOG_POLL_S)


def _wait(client: Client, job: dict[str, Any], timeout_s: float | None, *, as_json: bool) -> None:
    ended = until_end(client, job["id"], timeout_s=timeout_s)
    if (job.get("webhook") or {}).get("secret"):
        ended["webhook"] = job["webhook"]  # a secret that the platform made is in the first answer alone
    code = verdict(ended)
    _show(ended, job_view.show_job, as_json=as_json)
    if not as_json and ended["results"]:
        job_view.show_results(ended["results"])
    raise typer.Exit(code)


def _line(raw: dict[str, Any]) -> str:
    return json.dumps(raw, ensure_ascii=False)


def _short(job: dict[str, Any]) -> None:
    say(f"{job['id']} {job_view.state(job)}")


def _show(result: dict[str, Any], show: Callable[[dict[str, Any]], None], *, as_json: bool) -> None:
    emit(result) if as_json else show(result)
