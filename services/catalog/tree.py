"""The files of a model before it is one, wherever they lie: in a folder of this host, or as blobs of the tenant."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol
from uuid import UUID

from services.catalog.tensors import Readable, UnsafeModel
from shared.blobs import Blob, Content
from shared.storage import Store

DEPTH = 4  #: folders below the model's own
PATH_BYTES = 512
#: what tools leave beside a model and no loader reads
IGNORED_FILES = frozenset({".gitattributes", ".gitignore", ".DS_Store"})
IGNORED_FOLDERS = frozenset({".git", ".cache"})

Tell = Callable[[int], None]  #: is told how many bytes were read or sent; may raise to stop


class Files(Protocol):
    """Files by their path, in POSIX spelling."""

    def sizes(self) -> Mapping[str, int]:
        """Every file and its bytes.

        Raises:
            UnsafeModel: something in there is no plain file.
        """

    def open(self, path: str) -> AbstractContextManager[Readable]:
        """A file, read from its beginning."""


class Tree(Files, Protocol):
    """Files that can become blobs of a tenant."""

    def keep(self, path: str, *, tell: Tell) -> Blob:
        """Store a file for the tenant, unless it is stored already."""


class Folder:
    """A folder of this host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sizes(self) -> Mapping[str, int]:
        """See `Files.sizes`."""
        return {path: (self._folder / path).stat().st_size for path in sorted(files_below(self._folder))}

    @contextmanager
    def open(self, path: str) -> Iterator[Readable]:
        """See `Files.open`; a file that has become a link since is not followed."""
        number = os.open(self._folder / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(number, "rb") as file:
            yield file


class FolderTree(Folder):
    """A folder of this host; kept files go to the tenant's blobs."""

    def __init__(self, folder: Path, store: Store, tenant_id: UUID) -> None:
        super().__init__(folder)
        self._store, self._tenant_id = store, tenant_id

    def keep(self, path: str, *, tell: Tell) -> Blob:
        """See `Tree.keep`; told of every byte twice: hashed, then sent. Raises StoreUnavailable."""
        return self._store.put_file(self._tenant_id, self._folder / path, tell=tell)


class BlobTree:
    """Files that are the tenant's blobs already: nothing is copied."""

    def __init__(self, blobs: Mapping[str, Blob], store: Store, tenant_id: UUID) -> None:
        self._blobs, self._store, self._tenant_id = blobs, store, tenant_id

    def sizes(self) -> Mapping[str, int]:
        """See `Files.sizes`."""
        return {path: blob.bytes for path, blob in sorted(self._blobs.items())}

    @contextmanager
    def open(self, path: str) -> Iterator[Readable]:
        """See `Files.open`. Raises BlobMissing, StoreUnavailable."""
        with closing(self._store.open(self._tenant_id, self._blobs[path])) as content:
            yield _Stream(content)

    def keep(self, path: str, *, tell: Tell) -> Blob:
        """See `Tree.keep`."""
        tell(self._blobs[path].bytes)
        return self._blobs[path]


class _Stream:
    """Chunks as a file that is read forwards."""

    def __init__(self, content: Content) -> None:
        self._chunks = iter(content)
        self._rest = bytearray()

    def read(self, size: int, /) -> bytes:
        while len(self._rest) < size and (chunk := next(self._chunks, None)) is not None:
            self._rest += chunk
        found = bytes(self._rest[:size])
        del self._rest[:size]
        return found


def files_below(folder: Path) -> Iterator[str]:
    """Paths of the files below a folder that may belong to a model.

    Raises:
        UnsafeModel: a link, something that is no file, or too deep a folder.
    """
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if name not in IGNORED_FOLDERS]
        for name in (*folders, *names):
            if (here / name).is_symlink():
                raise UnsafeModel(f"{name} is a link.", param=name)
        for name in names:
            path = (here / name).relative_to(folder).as_posix()
            check_path(path)
            if not (here / name).is_file():
                raise UnsafeModel(f"{path} is not a file.", param=path)
            if name not in IGNORED_FILES:
                yield path


def check_path(path: str) -> None:
    """Refuse a path that leaves its folder, or is too deep or long.

    Raises:
        UnsafeModel: it does.
    """
    parts = PurePosixPath(path).parts
    if not parts or path != "/".join(parts) or path.startswith("/") or {".", ".."} & set(parts) or "\\" in path:
        raise UnsafeModel(f"{path[:80]!r} is not a path inside a folder.", param=path)
    if not path.isprintable() or len(path.encode()) > PATH_BYTES:
        raise UnsafeModel(f"{path[:80]!r} is not a file name that we keep.", param=path)
    if len(parts) - 1 > DEPTH:
        raise UnsafeModel(f"{path[:80]}: folders are nested deeper than {DEPTH}.", param=path)
