"""A model's files on this host: fetched once, checked, shared read-only by every engine that loads them."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from shared.manifest import Manifest
from shared.storage import Store

READ_ONLY_FILE, READ_ONLY_FOLDER = 0o444, 0o555

Tell = Callable[[int], None]  #: is told how many bytes came; may raise to stop


def materialise(
    store: Store, tenant_id: UUID, manifest: Manifest, models: Path, *, tell: Tell = lambda _: None
) -> Path:
    """The folder `models/{digest}` with every file of the manifest, fetched unless it is there already.

    A folder has its name only when every digest in it was checked: it is filled under another name and
    renamed. One process fetches a model, others wait for it; whoever is killed leaves nothing that the next
    one does not sweep.

    Raises:
        BlobMissing, BlobCorrupt: the store has not what the manifest promises.
        StoreUnavailable: the store cannot be reached.
        OSError: this host's disk is full, or refuses.
    """
    models.mkdir(parents=True, exist_ok=True)
    folder = models / manifest.digest
    with _alone(models / f"{manifest.digest}.lock"):
        if not folder.exists():
            _fetch(store, tenant_id, manifest, folder, tell=tell)
        os.utime(folder)  # the least recently used folder goes first when space runs out
    return folder


def adopt(made: Path, manifest: Manifest, models: Path) -> Path:
    """The folder `models/{digest}`: `made`, where a model of these digests was written, unless it is there already.

    `made` is on the file system of `models`, holds the manifest's files alone, and is gone afterwards.

    Raises:
        OSError: this host refuses.
    """
    folder = models / manifest.digest
    with _alone(models / f"{manifest.digest}.lock"):
        if folder.exists():
            shutil.rmtree(made)
        else:
            part = folder.with_name(f"{folder.name}.part")
            _sweep(part)
            made.rename(part)
            for entry in manifest:
                _sync(part / entry.path)
            _seal(part, manifest)
            part.rename(folder)
    return folder


def remove(folder: Path) -> None:
    """Delete a materialised model; the caller knows that nobody uses it."""
    with _alone(folder.with_name(f"{folder.name}.lock")):
        _sweep(folder)


def _fetch(store: Store, tenant_id: UUID, manifest: Manifest, folder: Path, *, tell: Tell) -> None:
    part = folder.with_name(f"{folder.name}.part")
    _sweep(part)
    try:
        for entry in manifest:
            path = part / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            store.fetch(tenant_id, entry.blob, path, tell=tell)
        _seal(part, manifest)
        part.rename(folder)
    except BaseException:
        _sweep(part)
        raise


def _seal(folder: Path, manifest: Manifest) -> None:
    for entry in manifest:
        (folder / entry.path).chmod(READ_ONLY_FILE)
    for inner in [path for path in folder.rglob("*") if path.is_dir()]:
        inner.chmod(READ_ONLY_FOLDER)
    folder.chmod(READ_ONLY_FOLDER)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    if not folder.exists():
        return
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)  # a read-only folder does not let its files go
    shutil.rmtree(folder)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock file, which the kernel lets go of when this process dies."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
