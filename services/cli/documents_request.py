"""What `modelyard documents run` sends: the documents of folders, and an operation made of options."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from services.cli.job_request import json_object, read
from services.documents import packs
from shared.contracts.documents import FILES
from shared.errors import ModelyardError

SUFFIXES = frozenset({".pdf", ".docx", ".xlsx", ".html", ".htm", ".md", ".markdown", ".txt"})
FORMATS = "PDF, DOCX, XLSX, HTML, Markdown and plain text"
NAME_BYTES = 255


@dataclass(frozen=True)
class Found:
    """Documents with the names they get, and files that are none."""

    documents: tuple[tuple[Path, str], ...]
    skipped: tuple[Path, ...]


@dataclass(frozen=True)
class Wanted:
    """The options that say what to do with the documents; exactly one kind of them is given."""

    schema: Path | None = None
    labels: str | None = None
    multi: bool = False
    summarize: bool = False
    words: int | None = None
    template: Path | None = None

    def operation(self) -> dict[str, Any]:
        """The `operation` of a document set."""
        kinds = [self.schema is not None, self.labels is not None, self.summarize, self.template is not None]
        if sum(kinds) != 1:
            raise typer.BadParameter("give one of --schema, --labels, --summarize and --template")
        if self.multi and self.labels is None:
            raise typer.BadParameter("goes with --labels", param_hint="--multi")
        if self.words is not None and not self.summarize:
            raise typer.BadParameter("goes with --summarize", param_hint="--words")
        if self.schema is not None:
            return {"type": "extract", "schema": json_object(self.schema, "--schema")}
        if self.labels is not None:
            labels = [label.strip() for label in self.labels.split(",") if label.strip()]
            return {"type": "classify", "labels": labels, "multi_label": self.multi}
        if self.template is not None:
            return {"type": "custom", "template": read(self.template)}
        return {"type": "summarize"} | ({} if self.words is None else {"words": self.words})


def pack(given: str | None) -> str | dict[str, Any] | None:
    """The `pack` of a document set: the name of an installed one, or the content of a folder."""
    if given is None or not Path(given).is_dir():
        return given
    try:
        return packs.read_folder(Path(given)).model_dump(mode="json", exclude_unset=True)
    except ModelyardError as error:
        raise typer.BadParameter(error.message, param_hint="--pack") from error


def find(paths: Sequence[Path], *, recursive: bool) -> Found:
    """The documents among files and folders. A file that is named itself has to be one.

    A folder's documents are called by their path inside it, so that two of one name can be told apart.
    """
    documents, skipped = list[tuple[Path, str]](), list[Path]()
    for path in paths:
        if path.is_dir():
            for file in _inside(path, recursive=recursive):
                name = file.relative_to(path).as_posix()
                if _is_document(file):
                    documents.append((file, name if len(name.encode()) <= NAME_BYTES else file.name))
                else:
                    skipped.append(file)
        elif not path.exists():
            raise typer.BadParameter(f"there is no {path}")
        elif not _is_document(path):
            raise typer.BadParameter(f"{path} is not a document that can be read: {FORMATS} are")
        else:
            documents.append((path, path.name))
    if not documents:
        raise typer.BadParameter(_nothing(paths, skipped, recursive=recursive))
    if len(documents) > FILES:
        raise typer.BadParameter(f"these are {len(documents)} documents; a set has at most {FILES}")
    return Found(tuple(documents), tuple(skipped))


def _inside(folder: Path, *, recursive: bool) -> Iterator[Path]:
    """Files of a folder, sorted; what begins with a dot is nobody's document."""
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _is_document(path: Path) -> bool:
    # Word keeps a file of this name beside a document that is open
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("~$")


def _nothing(paths: Sequence[Path], skipped: Sequence[Path], *, recursive: bool) -> str:
    where = ", ".join(map(str, paths))
    hint = "" if recursive else "; --recursive looks into the folders below"
    others = f" ({len(skipped)} other files)" if skipped else ""
    return f"there are no documents in {where}{others}: {FORMATS} can be read{hint}"
