"""A manifest: the files of a model, a checkpoint or an artifact, each with its sha256 and size.

Its canonical JSON (entries sorted by path, keys sorted, no spaces) has a sha256 of its own, which names the
whole.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

import orjson

from shared.blobs import Blob

PATH_BYTES = 512
_PART = re.compile(r"[^\x00-\x1f\x7f/\\]{1,255}")


@dataclass(frozen=True, order=True)
class Entry:
    """A file: its path below the folder, in POSIX spelling, and what it holds."""

    path: str
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if len(self.path.encode()) > PATH_BYTES or not all(_PART.fullmatch(part) for part in parts):
            raise ValueError(f"not a path of a manifest: {self.path!r}")
        if {".", ".."} & set(parts):
            raise ValueError(f"a path of a manifest stays in its folder: {self.path!r}")

    @property
    def blob(self) -> Blob:
        """Where the content is."""
        return Blob(self.sha256, self.bytes)


@dataclass(frozen=True)
class Manifest:
    """Entries in the order of their paths, each path once."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        """The manifest of these entries.

        Raises:
            ValueError: a path occurs twice.
        """
        ordered = tuple(sorted(entries))
        if len({entry.path for entry in ordered}) < len(ordered):
            raise ValueError("a path occurs twice in a manifest")
        return cls(ordered)

    @classmethod
    def of_json(cls, rows: Iterable[dict[str, Any]]) -> Self:
        """The manifest behind `as_json`.

        Raises:
            ValueError: a path leaves its folder or occurs twice.
        """
        return cls.of(Entry(str(row["path"]), str(row["sha256"]), int(row["bytes"])) for row in rows)

    @classmethod
    def of_files(cls, folder: Path, paths: Iterable[Path]) -> Self:
        """The manifest of files below `folder`, read and hashed."""
        return cls.of(_entry(folder, path) for path in paths)

    def as_json(self) -> list[dict[str, Any]]:
        """Rows of `path`, `sha256`, `bytes`, as a table keeps them."""
        return [asdict(entry) for entry in self.entries]

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, in hex."""
        return hashlib.sha256(orjson.dumps(self.as_json(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(entry.bytes for entry in self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def differences(self, folder: Path) -> list[str]:
        """Paths below `folder` that are missing, changed or not in the manifest; empty when all is as it should be."""
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        wrong = {entry.path for entry in self if entry.path in found and _entry(folder, folder / entry.path) != entry}
        return sorted(wrong | (found ^ {entry.path for entry in self}))


def _entry(folder: Path, path: Path) -> Entry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Entry(PurePosixPath(path.relative_to(folder)).as_posix(), digest, file.tell())
