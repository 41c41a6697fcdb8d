"""One document: fetched, read, cut into parts, asked about, and put together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from services.documents.evidence import Source
from services.documents.operations import Budget
from services.documents.summaries import Summary
from services.documents.tasks import Merged, Part, Task, flags_of
from shared.blobs import Blob, BlobCorrupt, BlobMissing
from shared.contracts.documents import Chunking, DocumentInput, DocumentResult
from shared.contracts.jobs import JobError
from workers.documents.chunks import LEAST, Chunker
from workers.documents.types import Chunk, Parsed, Refused
from workers.operations.documents_asking import Desk
from workers.operations.documents_dialogue import Dialogue
from workers.operations.documents_shared import Shelf
from workers.operations.pumping import Result
from workers.operations.storable import storable
from workers.runtime.host import Host
from workers.runtime.work import Work

MARK: Final = 8  #: tokens that the mark of a page takes


@dataclass(frozen=True)
class Pipeline:
    """Turns the documents of one attempt into results."""

    work: Work
    host: Host
    task: Task
    desk: Desk
    shelf: Shelf
    chunker: Chunker
    budget: Budget
    chunking: Chunking

    async def run(self, document: DocumentInput, path: Path) -> Result:
        """What is recorded of a document: its result, or why it has none. `path` is where its file may lie meanwhile.

        Raises:
            EngineFailed: the engine keeps dying, or cannot be started.
        """
        blob = Blob(document.sha256, document.bytes)
        fetch = partial(self.host.store.fetch, self.work.claim.tenant_id, blob, path)
        try:
            taking = self.shelf.take(path, filename=document.filename, fetch=lambda: self.host.insist(fetch))
            async with taking as parsed:
                return await self._result(document, parsed)
        except Refused as refused:
            return _error(refused.error)
        except (BlobMissing, BlobCorrupt) as lost:
            return _error(JobError(code=lost.code, title=lost.message, retryable=lost.retryable))

    async def _result(self, document: DocumentInput, parsed: Parsed) -> Result:
        chunks = await self.host.blocking(partial(self._cut, parsed))
        source = Source({page.number: page.text for page in parsed.pages})
        dialogue = Dialogue(self.host, self.desk, self.task, source)
        merged = await self._merged(dialogue, [_part(chunk, document.filename) for chunk in chunks])
        if merged is None:
            return _error(dialogue.refused[0])
        made = DocumentResult(
            file_id=document.file_id,
            filename=document.filename,
            sha256=document.sha256,
            format=parsed.format,
            pages=len(parsed.pages),
            chunks=len(chunks),
            result=merged.result,
            values=merged.values,
            flags=flags_of([merged.flags, dialogue.flags]),
            repaired=dialogue.repaired,
            ocr_pages=parsed.ocr_pages,
            unread=parsed.unread,
            usage=dialogue.usage,
        )
        return Result(output=storable(made.model_dump(mode="json")))

    def _cut(self, parsed: Parsed) -> Sequence[Chunk]:
        """Parts that fit with their marks: cut again, smaller, when many short pages share one."""
        room = self.budget.room
        tokens = min(self.chunking.tokens or room, room)
        while True:
            chunks = self.chunker.cut(parsed.pages, tokens=tokens, overlap=min(self.chunking.overlap, tokens // 2))
            over = max((chunk.tokens + MARK * len(chunk.spans) for chunk in chunks), default=0) - room
            if over <= 0 or tokens <= LEAST:
                return chunks
            tokens = max(LEAST, tokens - over)

    async def _merged(self, dialogue: Dialogue, parts: Sequence[Part]) -> Merged | None:
        """What the answers make together; None when the engine refused every part."""
        readings = await dialogue.read(parts)
        if parts and not readings:
            return None
        if isinstance(self.task, Summary):
            task, summaries = self.task, [reading for _, reading in readings]
            readings = await dialogue.combine(task, summaries, fits=self._fits)
        return await self.host.blocking(partial(self.task.merge, readings))

    def _fits(self, prompt: str) -> bool:
        """Whether a request about summaries is no longer than one about a part of the document."""
        part = min(self.chunking.tokens or self.budget.room, self.budget.room)
        return self.chunker.count(prompt) <= self.budget.prompt + part


def _part(chunk: Chunk, filename: str) -> Part:
    pieces = tuple((span.page, chunk.text[span.start : span.end]) for span in chunk.spans)
    return Part(number=chunk.number, pieces=pieces, filename=filename)


def _error(error: JobError) -> Result:
    return Result(error=storable(error.model_dump(mode="json", exclude_none=True)))
