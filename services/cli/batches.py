"""`modelyard batches …`: a file of requests in, a file of answers out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import batches_view, files_saving
from services.cli.calling import command
from services.cli.client import Client
from services.cli.files_upload import NoFile, Outgoing, send
from services.cli.following_sets import BATCH, ENDS, ended_early, until_end, verdict
from services.cli.job_request import only_given, pairs
from services.cli.listing import All, Limit, listing
from services.cli.output import AsJson, emit, note, say
from services.cli.waiting import Timeout
from services.files.service import Purpose
from shared.contracts.batches import LINE_BYTES

DEFAULT_ENDPOINT = "/v1/chat/completions"

app = typer.Typer(help="Run files of requests within a window.", no_args_is_help=True, add_completion=False)

BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="Id of the batch, batch_….")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where the answers go, a JSONL file.")]
Errors = Annotated[Path | None, typer.Option("--errors", help="Where the lines that failed go, a JSONL file.")]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end; --out and --errors wait too.")]
AllowFailures = Annotated[bool, typer.Option("--allow-failures", help="Exit code 0 although some lines failed.")]


@dataclass(frozen=True)
class Files:
    """Where a batch's files go. Raises AlreadyThere for one that is there."""

    out: Path | None
    errors: Path | None
    force: bool

    def __post_init__(self) -> None:
        files_saving.check(self.out, force=self.force)
        files_saving.check(self.errors, force=self.force)

    def __bool__(self) -> bool:
        return bool(self.out or self.errors)

    def save(self, client: Client, batch: dict[str, Any]) -> None:
        """Bring what there is: a batch without answers has no output file, one without failures no error file."""
        for target, file_id, why in (
            (self.out, batch["output_file_id"], "no line was answered"),
            (self.errors, batch["error_file_id"], "no line failed"),
        ):
            if target is not None and file_id is None:
                note(f"{target} is not written: {why}")
            elif target is not None:
                files_saving.save_file(client, file_id, target, force=self.force)

    def show(self, batch: dict[str, Any], *, as_json: bool) -> None:
        """Print the batch; as JSON with where its files are here."""
        named = {"out": self.out, "errors_out": self.errors}
        told = {name: str(path) for name, path in named.items() if path is not None}
        emit({**batch, **told}) if as_json else batches_view.show_batch(batch)


@command(app)
def create(  # noqa: PLR0913 - each is an option of the command
    client: Client,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL file of requests, or the id of an uploaded one.")],
    *,
    endpoint: Annotated[
        str | None, typer.Option(help="Where each line could be posted; the url of the first line by default.")
    ] = None,
    window: Annotated[str, typer.Option(help="1h, 4h, 24h or 7d: what has not been run by then is expired.")] = "24h",
    wait_: Wait = False,
    out: Out = None,
    errors: Errors = None,
    force: files_saving.Force = False,
    gpu_class: Annotated[str | None, typer.Option(help="GPU class, or auto: the cheapest that fits.")] = None,
    priority: Annotated[int | None, typer.Option(help="0–9; 9 goes first.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, returned as given; may be repeated.")] = None,
    allow_failures: AllowFailures = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file of requests, and run every line of it.

    Exit codes with --wait: 0 done, 9 done but some lines failed, 1 the file cannot be used, 7 cancelled, 8 expired,
    6 not within --timeout. Ctrl-C leaves the batch running.
    """
    files = Files(out, errors, force)
    wanted = only_given({
        "endpoint": endpoint or _endpoint(file), "completion_window": window, "gpu_class": gpu_class,
        "priority": priority, "metadata": pairs(metadata or (), "--metadata"),
    })  # fmt: skip
    known = str(file).startswith("file-") and not file.exists()
    file_id = str(file) if known else send(client, Outgoing(file, file.name, Purpose.BATCH))["id"]
    made = client.post(BATCH.path, {**wanted, "input_file_id": file_id})
    _follow(client, made, files, wait=wait_, allow_failures=allow_failures, timeout_s=timeout, as_json=as_json)


@command(app)
def wait(
    client: Client,
    batch: BatchId,
    *,
    out: Out = None,
    errors: Errors = None,
    force: files_saving.Force = False,
    allow_failures: AllowFailures = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Wait for a batch, and bring its files here. Exit codes as of `batches create --wait`."""
    files = Files(out, errors, force)
    _follow(
        client, _get(client, batch), files, wait=True, allow_failures=allow_failures, timeout_s=timeout, as_json=as_json
    )


@command(app)
def retry(  # noqa: PLR0913 - each is an option of the command
    client: Client,
    batch: BatchId,
    *,
    wait_: Wait = False,
    out: Out = None,
    errors: Errors = None,
    force: files_saving.Force = False,
    allow_failures: AllowFailures = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Run the lines of a batch again that failed or were never run, as a new batch."""
    files = Files(out, errors, force)
    made = client.post(f"{BATCH.where(batch)}/retry")
    _follow(client, made, files, wait=wait_, allow_failures=allow_failures, timeout_s=timeout, as_json=as_json)


@command(app)
def results(
    client: Client,
    batch: BatchId,
    *,
    out: Out = None,
    errors: Errors = None,
    force: files_saving.Force = False,
    as_json: AsJson = False,
) -> None:
    """Bring the files of a batch that has ended here; without --out and --errors, its answers go to stdout."""
    files = Files(out, errors, force)
    found = _get(client, batch)
    if found["status"] not in ENDS:
        raise ended_early(BATCH, batch)
    if out is None and errors is None and not as_json:
        _print(client, found)
        return
    files.save(client, found)
    files.show(found, as_json=as_json)


@command(app)
def get(client: Client, batch: BatchId, *, as_json: AsJson = False) -> None:
    """Show a batch."""
    found = _get(client, batch)
    emit(found) if as_json else batches_view.show_batch(found)


@command(app, "list")
def list_batches(
    client: Client,
    *,
    limit: Limit = 20,
    all_: All = False,
    after: Annotated[str | None, typer.Option(help="Go on behind the batch of this id.")] = None,
    as_json: AsJson = False,
) -> None:
    """List batches, newest first."""
    listing(client, BATCH.path, batches_view.show_batches, limit=limit, all_=all_, after=after, as_json=as_json)


@command(app)
def cancel(client: Client, batch: BatchId, *, as_json: AsJson = False) -> None:
    """Stop a batch. Lines that have been answered keep their answers."""
    found = client.post(f"{BATCH.where(batch)}/cancel")
    emit(found) if as_json else say(f"{found['id']} {found['status']}")


def _endpoint(file: Path) -> str:
    """The `url` of the file's first line: what every line has to have."""
    if not file.exists():
        return DEFAULT_ENDPOINT
    try:
        with file.open("rb") as lines:
            first = next((line for line in iter(lambda: lines.readline(LINE_BYTES), b"") if line.strip()), b"{}")
        return str(json.loads(first.decode("utf-8-sig")).get("url") or DEFAULT_ENDPOINT)
    except OSError as error:
        raise NoFile(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, AttributeError):
        return DEFAULT_ENDPOINT  # the platform says what is wrong with the line


def _follow(
    client: Client,
    batch: dict[str, Any],
    files: Files,
    *,
    wait: bool,
    allow_failures: bool,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Say what was begun, or stay until its end."""
    if not (wait or files):
        files.show(batch, as_json=as_json)
        return
    note(f"batch {batch['id']}")
    ended = until_end(client, BATCH, batch, timeout_s=timeout_s)
    code = verdict(BATCH, ended, allow_failures=allow_failures)
    files.save(client, ended)
    files.show(ended, as_json=as_json)
    raise typer.Exit(code)


def _get(client: Client, batch_id: str) -> dict[str, Any]:
    return dict(client.get(BATCH.where(batch_id)))


def _print(client: Client, batch: dict[str, Any]) -> None:
    if batch["output_file_id"] is None:
        raise files_saving.NothingToSave(f"No line of the batch ({batch['status']}) was answered.")
    files_saving.to_stdout(client, batch["output_file_id"])
