"""Files between the folder of an attempt and the object store: a halt stops them at the next chunk."""

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

import orjson

from services.artifacts.service import NewArtifact
from shared.contracts.jobs import JobError
from shared.manifest import Entry, Manifest
from shared.storage import Store
from workers.runtime.host import Host
from workers.runtime.work import JobFailed

HALT_S: Final = 5.0  # in which a transfer notices that it is halted; one that a dead store holds up ends later
NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)

Tell = Callable[[int], None]  #: is told how many bytes were moved; raises when the transfer is halted
T = TypeVar("T")


class Halted(Exception):
    """Nobody wants the rest of a transfer."""


async def carry(host: Host, work: Callable[[Tell], T]) -> T:
    """What `work` returns, from a thread, tried until the stores answer; cancelled, it ends before this raises."""
    halted = threading.Event()

    def tell(count: int) -> None:
        del count
        if halted.is_set():
            raise Halted

    running = asyncio.ensure_future(host.insist(lambda: work(tell)))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        halted.set()
        await asyncio.wait({running}, timeout=HALT_S)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        raise


@asynccontextmanager
async def space_told() -> AsyncIterator[None]:
    """Turn a full disk into the end of an attempt that another host may survive.

    Raises:
        JobFailed: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        told = JobError(code="disk_full", title="The worker's disk is full", detail=str(error), retryable=True)
        raise JobFailed(told) from error


def fetch_folder(store: Store, tenant_id: UUID, manifest: Manifest, folder: Path, *, tell: Tell) -> None:
    """Write the files of a manifest below `folder`, each checked.

    Raises:
        BlobMissing, BlobCorrupt: the store has not what it promised.
        StoreUnavailable: it cannot be reached.
        OSError: this host's disk is full.
    """
    for entry in manifest:
        path = folder / entry.path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        store.fetch(tenant_id, entry.blob, path, tell=tell)


def put(
    store: Store,
    tenant_id: UUID,
    path: Path,
    *,
    name: str,
    media_type: str,
    position: int = 0,
    tell: Tell = lambda _: None,
) -> NewArtifact:
    """Store a file, or a folder with all its files, as an artifact that has no row yet.

    Raises:
        StoreUnavailable: the store did not take it.
    """
    if not path.is_dir():
        blob = store.put_file(tenant_id, path, tell=tell)
        return NewArtifact(name=name, media_type=media_type, blob=blob, position=position)
    manifest = Manifest.of(_stored(store, tenant_id, path, tell))
    return listed(store, tenant_id, manifest, name=name, media_type=media_type, position=position)


def listed(
    store: Store, tenant_id: UUID, manifest: Manifest, *, name: str, media_type: str, position: int = 0
) -> NewArtifact:
    """Files that are stored already, as an artifact that has no row yet.

    Raises:
        StoreUnavailable: the store did not take the manifest.
    """
    blob = store.put_bytes(tenant_id, orjson.dumps(manifest.as_json(), option=orjson.OPT_SORT_KEYS))
    return NewArtifact(name=name, media_type=media_type, blob=blob, position=position, manifest=manifest)


def _stored(store: Store, tenant_id: UUID, folder: Path, tell: Tell) -> Iterable[Entry]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            blob = store.put_file(tenant_id, path, tell=tell)
            yield Entry(path.relative_to(folder).as_posix(), blob.sha256, blob.bytes)
