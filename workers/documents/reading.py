"""Reading one document in a process of its own that may fail, hang or grow without harm to anybody else."""

import asyncio
import base64
from pathlib import Path
from typing import Any, Final, Self

from shared.settings import Settings
from workers.documents.ocr import recognise
from workers.documents.protocol import Request
from workers.documents.reader import Reader
from workers.documents.refusals import too_many_pages, too_much_text, too_slow
from workers.documents.types import Page, Parsed, Refused

WALL: Final = 3  #: times its CPU limit: how long a document may take by the clock, text recognition not counted


async def parse(path: Path, *, filename: str, settings: Settings) -> Parsed:
    """The text of the document at `path`, page by page; `filename` tells text formats apart (.md, .html, .txt).

    Cancellation ends the reading process and everything that it started. Whoever reads several documents saves 300 ms
    each by keeping a `Readers`.

    Raises:
        Refused: it cannot be read; its error says why.
        OSError: there is no such file; or (ConnectionError) the reading process did not start, or was killed from
            outside: it may be tried again.
    """
    async with Readers(settings) as readers:
        return await readers.parse(path, filename=filename)


class Readers:
    """Reads at most `settings.document_parsers` documents at once; others wait. Processes are kept for the next one.

    Belongs to one event loop, and to the thread that runs it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places = asyncio.Semaphore(settings.document_parsers)
        self._idle: list[Reader] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def parse(self, path: Path, *, filename: str) -> Parsed:
        """As the function `parse`."""
        async with self._places:
            await asyncio.to_thread(path.stat)
            reader = await self._reader()
            try:
                return await _Reading(reader, self._settings).run(path, filename)
            finally:
                if reader.idle:
                    self._idle.append(reader)
                else:
                    await asyncio.shield(reader.stop())

    async def _reader(self) -> Reader:
        while self._idle:
            reader = self._idle.pop()
            if reader.alive:
                return reader
            await reader.stop()
        return await Reader.start()

    async def close(self) -> None:
        """End the processes that wait for work."""
        while self._idle:
            await self._idle.pop().stop()


class _Reading:
    """One document on its way."""

    def __init__(self, reader: Reader, settings: Settings) -> None:
        self._reader = reader
        self._settings = settings
        self._format = ""
        self._pages: list[Page] = []
        self._unread: tuple[int, ...] = ()
        self._size = 0
        self._recognised = 0

    async def run(self, path: Path, filename: str) -> Parsed:
        settings = self._settings
        request = Request(
            path=f"{path.absolute()}",  # noqa: ASYNC240 - asks the working folder alone
            filename=filename,
            pages=settings.document_pages,
            text_bytes=settings.document_text_bytes,
            cpu_s=settings.document_cpu_s,
            memory_bytes=settings.document_memory_bytes,
            images=bool(settings.ocr_command),
        )
        refused: Refused | None = None
        try:
            async with asyncio.timeout(WALL * settings.document_cpu_s) as limit:
                async for told in self._reader.answers(request):
                    if "refused" in told:
                        refused = Refused(**told["refused"])
                    else:
                        await self._take(told, limit)
        except TimeoutError:
            raise too_slow(settings.document_cpu_s) from None
        if refused:
            raise refused
        if not any(page.text.strip() for page in self._pages):
            raise _no_text()
        return Parsed(self._format, tuple(self._pages), self._recognised, self._unread)

    async def _take(self, told: dict[str, Any], limit: asyncio.Timeout) -> None:
        """Count again what the reading process says: a document may have taken it over."""
        match told:
            case {"format": str(format)}:
                self._format = format
            case {"page": int(number), "text": str(text)}:
                self._add(number, text)
            case {"page": int(number), "image": str(picture)} if self._settings.ocr_command:
                self._add(number, await self._recognise(number, picture, limit))
            case {"unread": list(numbers)}:
                self._unread = tuple(map(int, numbers))

    def _add(self, number: int, text: str) -> None:
        self._size += len(text.encode())
        if self._size > self._settings.document_text_bytes:
            raise too_much_text(self._settings.document_text_bytes)
        if len(self._pages) >= self._settings.document_pages:
            raise too_many_pages(self._settings.document_pages)
        self._pages.append(Page(number, text))

    async def _recognise(self, number: int, picture: str, limit: asyncio.Timeout) -> str:
        loop, settings = asyncio.get_running_loop(), self._settings
        began, ends = loop.time(), limit.when()
        limit.reschedule(None)
        text = await recognise(
            settings.ocr_command,
            base64.b64decode(picture),
            page=number,
            timeout_s=settings.document_cpu_s,
            memory_bytes=settings.document_memory_bytes,
            text_bytes=settings.document_text_bytes,
        )
        self._recognised += 1
        limit.reschedule((ends or began) + loop.time() - began)
        return text


def _no_text() -> Refused:
    return Refused("empty_document", "The document has no text.", "Upload the file again, with its content.")
