"""What the document sets of one worker share: reading processes, memory for texts, and the tokenizers of models."""

import asyncio
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

from services.inference.service import ServedModel
from workers.documents.chunks import Chunker
from workers.documents.reading import Readers
from workers.documents.types import Parsed, Refused
from workers.runtime.host import Host

TOKENIZER: Final = "tokenizer.json"
KEPT: Final = 4  #: tokenizers; one of 128,000 tokens takes some 100 MB
CHARACTERS: Final = 64 * 2**20  #: of documents in memory; with what is made of them, some 400 MB at the very most
READ_TRIES: Final = 3  #: of a document whose reading process was killed from outside


class Shelf:
    """The documents that are in memory: so many characters in all, and whatever is being read just now.

    Used on one event loop.
    """

    def __init__(self, readers: Readers, *, at_once: int, capacity: int = CHARACTERS) -> None:
        self._readers = readers
        self._reading = asyncio.Semaphore(at_once)
        self._capacity = capacity
        self._held = 0
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def take(self, path: Path, *, filename: str, fetch: Callable[[], Awaitable[None]]) -> AsyncIterator[Parsed]:
        """A document's text, for as long as the block runs. `fetch` writes its file to `path`, which goes afterwards.

        Raises:
            Refused: it cannot be read.
        """
        async with self._reading:  # until there is room for the text: what waits for room is in memory already
            try:
                await fetch()
                parsed = await self._read(path, filename)
            finally:
                path.unlink(missing_ok=True)  # noqa: ASYNC240 - microseconds
            size = sum(len(page.text) for page in parsed.pages)
            while self._held and self._held + size > self._capacity:
                self._freed.clear()
                await self._freed.wait()
            self._held += size
        try:
            yield parsed
        finally:
            self._held -= size
            self._freed.set()

    async def close(self) -> None:
        """End the reading processes."""
        await self._readers.close()

    async def _read(self, path: Path, filename: str) -> Parsed:
        for _ in range(READ_TRIES):
            with suppress(ConnectionError):  # somebody killed the process that read it
                return await self._readers.parse(path, filename=filename)
        raise Refused("reader_died", "The process that reads the document was killed repeatedly.")


@dataclass
class _Lent:
    shelf: Shelf
    users: int = 0


_shelves: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lent] = WeakKeyDictionary()
_chunkers: OrderedDict[str, Chunker] = OrderedDict()  #: by the digest of the tokenizer
_loading: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


@asynccontextmanager
async def shelf(host: Host) -> AsyncIterator[Shelf]:
    """The shelf of this worker; its reading processes end with the last job that uses it."""
    loop, at_once = asyncio.get_running_loop(), host.settings.document_parsers
    if loop not in _shelves:
        _shelves[loop] = _Lent(Shelf(Readers(host.settings), at_once=at_once))
    lent = _shelves[loop]
    lent.users += 1
    try:
        yield lent.shelf
    finally:
        lent.users -= 1
        if not lent.users:
            del _shelves[loop]
            await lent.shelf.close()


async def chunker(host: Host, model: ServedModel) -> Chunker:
    """Cuts by the model's own tokens; by its characters where the model has no `tokenizer.json`.

    Raises:
        BlobMissing, BlobCorrupt: the store has lost the tokenizer.
    """
    entry = next((entry for entry in model.manifest.entries if entry.path == TOKENIZER), None)
    if entry is None:
        return Chunker(None)

    def load() -> Chunker:
        with tempfile.TemporaryDirectory(prefix="tokenizer-", dir=host.folders.worker) as folder:
            host.store.fetch(model.tenant_id, entry.blob, Path(folder) / TOKENIZER)
            return Chunker(Path(folder) / TOKENIZER)

    if entry.sha256 not in _chunkers:
        async with _loading.setdefault(asyncio.get_running_loop(), asyncio.Lock()):  # a set's jobs begin all at once
            if entry.sha256 not in _chunkers:
                _chunkers[entry.sha256] = await host.insist(load)
            while len(_chunkers) > KEPT:
                _chunkers.popitem(last=False)
    _chunkers.move_to_end(entry.sha256)
    return _chunkers[entry.sha256]
