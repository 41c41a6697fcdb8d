"""Bringing what a batch or a document set has made to files of the caller's."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import download
from services.cli.client import CallError, Client
from services.cli.output import ExitCode, note

Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]


class NothingToSave(CallError):
    """It has made no such file."""

    code = "no_artifact"
    exit_code = ExitCode.NOT_FOUND


def check(target: Path | None, *, force: bool) -> None:
    """Refuse a target that could not be written in the end, before hours of work go into it.

    Raises:
        AlreadyThere: it exists, and `force` is not given.
    """
    if target is None:
        return
    if not target.parent.is_dir():
        raise typer.BadParameter(f"{target.parent} is not a folder")
    if target.is_dir():
        raise typer.BadParameter(f"{target} is a folder; name a file")
    if target.exists() and not force:
        raise download.AlreadyThere(f"{target} exists.")


def save(client: Client, found: dict[str, Any], target: Path, *, force: bool) -> None:
    """Bring what is behind `found` (`content`, `bytes`, `sha256`) to `target`, and say so on stderr."""
    fresh = download.fetch(client, found, target, force=force, progress=lambda _there: None)
    note(f"{target} {'' if fresh else '(was there already) '}{found['bytes']} bytes, sha256 {found['sha256']}")


def save_file(client: Client, file_id: str, target: Path, *, force: bool) -> None:
    """Bring an uploaded or written file to `target`."""
    found = client.get(f"/v1/files/{file_id}")
    save(client, {**found, "content": f"/v1/files/{file_id}/content"}, target, force=force)


def to_stdout(client: Client, file_id: str) -> None:
    """Write a file's content to stdout as it comes."""
    with client.download(f"/v1/files/{file_id}/content") as answer:
        for chunk in answer.iter_raw():
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
