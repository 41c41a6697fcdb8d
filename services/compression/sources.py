"""Sources of texts that a job reads: the files behind them, where they are laid, and what people call them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.compression import library
from services.compression.about import Origin
from services.compression.library import Text
from shared.contracts.evaluation import FileSource, LibrarySource, Source
from shared.contracts.forge_orders import Data
from shared.db.models import File
from shared.ids import prefixed
from shared.storage import Blob

_LIBRARY_FILES: Final = {False: "library.jsonl", True: "library-held-out.jsonl"}  #: by whether it is held out


@dataclass(frozen=True)
class FileRef:
    """An uploaded file as a job reads it, deleted since or not."""

    file_id: str
    filename: str
    blob: Blob

    @property
    def path(self) -> str:
        """Where it is laid, below the folder of the data."""
        return f"{self.file_id}.jsonl"


def by_id(rows: Iterable[File]) -> dict[str, FileRef]:
    """Files as a job reads them, by public id."""
    files = [FileRef(prefixed("file-", row.id), row.filename, Blob(row.sha256, row.bytes)) for row in rows]
    return {file.file_id: file for file in files}


def wanted(files: Mapping[str, FileRef]) -> dict[str, Blob]:
    """The contents to fetch, by their path below the folder of the data."""
    return {file.path: file.blob for file in files.values()}


def lay_library(read: Iterable[tuple[Source, bool]], folder: Path) -> dict[str, Text]:
    """Write the parts of the library text that are among (source, whether it is held out); by their paths.

    Takes about a second.
    """
    needed = {held_out for source, held_out in read if isinstance(source, LibrarySource)}
    return {
        _LIBRARY_FILES[part]: library.write(folder / _LIBRARY_FILES[part], held_out=part) for part in sorted(needed)
    }


def origin(files: Mapping[str, FileRef], source: Source, *, held_out: bool = False) -> Origin:
    """What people know a source by. Library text may have to be read for it."""
    if isinstance(source, FileSource):
        file = files[source.file_id]
        return Origin(f"{file.filename} ({file.file_id})", file.blob.sha256, file.blob.bytes, source.weight)
    text = library.described(held_out=held_out)
    return Origin(text.name, text.sha256, text.bytes, source.weight)


def data(files: Mapping[str, FileRef], source: Source, folder: Path, *, held_out: bool = False) -> Data:
    """Where a source lies, below the folder of the data."""
    if isinstance(source, FileSource):
        file = files[source.file_id]
        return Data(path=folder / file.path, name=file.filename, weight=source.weight)
    name = library.named(held_out=held_out)
    return Data(path=folder / _LIBRARY_FILES[held_out], name=name, weight=source.weight)
