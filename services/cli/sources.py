"""Texts that a command names: files of this machine or of the platform, the library's text; each with its weight."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from services.cli.client import Client
from services.cli.files_upload import NoFile, Outgoing, send_all
from services.files.service import Purpose

LIBRARY = "library"  #: how a command names the text of the Python standard library
KEPT_S = 30 * 86_400  # how long a file that was uploaded for a job is kept
LEFT_S = 86_400  # a file that was sent before serves again when it is kept for that long
KNOWN = "file-"  #: how ids of uploaded files begin


@dataclass(frozen=True)
class Given:
    """What a command named: a file here (`path`), one that is uploaded, or the library's text."""

    name: str
    path: Path | None = None
    weight: float = 1.0

    @property
    def source(self) -> dict[str, Any]:
        """The source as a spec has it; a file that is here is still called by its path."""
        weight = {} if self.weight == 1.0 else {"weight": self.weight}
        return {"type": LIBRARY, **weight} if self.name == LIBRARY else {**self.file, **weight}

    @property
    def file(self) -> dict[str, Any]:
        """The same for a field that takes files alone."""
        return {"type": "file", "file_id": str(self.path or self.name)}


@dataclass(frozen=True)
class Sent:
    """Files that are on the platform now: their ids by path, and the ids of those that were not there before."""

    ids: Mapping[str, str]
    new: tuple[str, ...]


def parse(text: str, option: str) -> Given:
    """`FILE`, `file-…` or `library`, with `:WEIGHT` behind it or without; an existing path wins over any reading.

    Raises:
        typer.BadParameter: there is no such file, or the weight is none.
    """
    found = _named(text)
    if found is not None:
        return found
    name, colon, weight = text.rpartition(":")
    named = _named(name) if colon else None
    if named is None:
        raise typer.BadParameter(f"there is no file {text}", param_hint=option)
    try:
        number = float(weight)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1000:
        raise typer.BadParameter(f"{weight!r} is no weight: a number up to 1000", param_hint=option)
    return Given(named.name, named.path, number)


def given(names: Iterable[str] | None, option: str) -> list[Given]:
    """What an option named, in its order. Raises typer.BadParameter: a file is not there."""
    return [parse(name, option) for name in names or ()]


def send(client: Client, texts: Iterable[Given], *, purpose: Purpose) -> Sent:
    """Upload the files that are here, unless the platform has their content already, of that purpose.

    Raises:
        NoFile: one of them cannot be read.
        Refused, Unreachable: as the gateway answers.
    """
    digests = {str(each.path): _digest(each.path) for each in texts if each.path is not None}
    if not digests:
        return Sent({}, ())
    known = _known(client, purpose)
    fresh = {digest: path for path, digest in digests.items() if digest not in known}
    files = [Outgoing(Path(path), Path(path).name, purpose, KEPT_S) for path in fresh.values()]
    uploaded = send_all(client, files) if files else []
    new = dict(zip(fresh, (each["id"] for each in uploaded), strict=True))
    return Sent({path: (known | new)[digest] for path, digest in digests.items()}, tuple(new.values()))


def filled(spec: Any, ids: Mapping[str, str]) -> Any:
    """A spec whose paths have become the files' ids."""
    if isinstance(spec, Mapping):
        return {
            name: ids.get(value, value) if name == "file_id" else filled(value, ids) for name, value in spec.items()
        }
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return [filled(each, ids) for each in spec]
    return spec


def _named(text: str) -> Given | None:
    if text and Path(text).is_file():
        return Given(Path(text).name, Path(text))
    return Given(text) if text == LIBRARY or (text.startswith(KNOWN) and ":" not in text) else None


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise NoFile(f"{path} cannot be read: {error.strerror}.") from error


def _known(client: Client, purpose: Purpose) -> dict[str, str]:
    """Ids of files that were sent before, by the sha256 of their content."""
    least = datetime.now(UTC).timestamp() + LEFT_S
    rows, _ = client.rows("/v1/files", limit=None, purpose=purpose.value)
    return {row["sha256"]: row["id"] for row in rows if not row["expires_at"] or row["expires_at"] > least}
