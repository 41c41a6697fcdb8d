"""`modelyard files …`: uploads, and what batches wrote."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import files_saving, files_upload
from services.cli.calling import command
from services.cli.client import Client
from services.cli.job_request import SPANS
from services.cli.listing import All, Limit, listing
from services.cli.output import AsJson, emit, say, table
from services.files.service import Purpose

app = typer.Typer(help="Upload files, list them, bring them back.", no_args_is_help=True, add_completion=False)

FileId = Annotated[str, typer.Argument(metavar="FILE", help="Id of the file, file-….")]


@command(app)
def upload(
    client: Client,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Files to upload.")],
    *,
    purpose: Annotated[Purpose, typer.Option(help="What they are for.")] = Purpose.USER_DATA,
    expires: Annotated[str | None, typer.Option(help="Forget them after 1h to 30d; 30 days for batches.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload files, several at once; a file of more than 64 MiB goes in parts."""
    expires_s = None if expires is None else _span(expires)
    outgoing = [files_upload.Outgoing(path, path.name, purpose, expires_s) for path in paths]
    sent = files_upload.send_all(client, outgoing)
    if as_json:
        emit(sent[0] if len(sent) == 1 else {"object": "list", "data": sent, "has_more": False})
    else:
        _show(sent)


@command(app, "list")
def list_files(
    client: Client,
    *,
    purpose: Annotated[str | None, typer.Option(help="Only files of this purpose.")] = None,
    limit: Limit = 20,
    all_: All = False,
    after: Annotated[str | None, typer.Option(help="Go on behind the file of this id.")] = None,
    as_json: AsJson = False,
) -> None:
    """List files, newest first."""
    listing(client, "/v1/files", _show, limit=limit, all_=all_, after=after, as_json=as_json, purpose=purpose)


@command(app)
def get(client: Client, file: FileId, *, as_json: AsJson = False) -> None:
    """Show a file."""
    found = client.get(f"/v1/files/{file}")
    emit(found) if as_json else _show([found])


@command(app)
def content(
    client: Client,
    file: FileId,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="Where it goes; stdout by default.")
    ] = None,
    force: files_saving.Force = False,
) -> None:
    """Bring a file's content here: to stdout, or checked by its SHA-256 to a file."""
    if output is not None:
        files_saving.check(output, force=force)
        files_saving.save_file(client, file, output, force=force)
        return
    files_saving.to_stdout(client, file)


@command(app)
def delete(client: Client, file: FileId, *, as_json: AsJson = False) -> None:
    """Forget a file. Work that was begun with it goes on."""
    gone = client.delete(f"/v1/files/{file}")
    emit(gone) if as_json else say(f"deleted {gone['id']}")


def _span(given: str) -> int:
    number, unit = given[:-1], given[-1:]
    if unit not in SPANS or not number.isdigit():
        raise typer.BadParameter(f"{given!r} is not a span such as 12h or 30d", param_hint="--expires")
    return int(number) * SPANS[unit]


def _show(files: list[dict[str, Any]]) -> None:
    table(
        ("id", "name", "bytes", "purpose", "created", "expires"),
        [
            (
                each["id"],
                each["filename"],
                each["bytes"],
                each["purpose"],
                _day(each["created_at"]),
                _day(each["expires_at"]),
            )
            for each in files
        ],
    )


def _day(moment: int | None) -> str:
    return "" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}"
