"""What reading a document gives: pages, chunks of them, or the reason why it cannot be read."""

from dataclasses import dataclass
from typing import Final

from shared.contracts.jobs import JobError

#: what we read, as a refusal names it
READ: Final = "PDF, DOCX, XLSX, HTML, Markdown and plain text (UTF-8, UTF-16 with a byte order mark, Windows-1252)"


@dataclass(frozen=True)
class Page:
    """Text of one page; `number` counts from 1. A spreadsheet's page is a sheet."""

    number: int
    text: str


@dataclass(frozen=True)
class Parsed:
    """A document as text. `format` is pdf, docx, xlsx, html, markdown or text."""

    format: str
    pages: tuple[Page, ...]
    ocr_pages: int = 0
    unread: tuple[int, ...] = ()  #: pages that are pictures without text, too few of them to refuse the document


class Refused(Exception):
    """The document cannot be read; `error` says why, and what to do about it.

    Codes: unsupported_format, encrypted_document, damaged_document, scanned_document, too_many_pages, too_much_text,
    document_bomb, parser_timeout, parser_memory, empty_document, ocr_failed.
    """

    def __init__(self, code: str, title: str, detail: str = "") -> None:
        self.error = JobError(code=code, title=title, detail=detail)
        super().__init__(f"{title} {detail}".strip())


@dataclass(frozen=True)
class Span:
    """`chunk.text[start:end]` is `page.text[at : at + end - start]`."""

    page: int
    start: int
    end: int
    at: int = 0


@dataclass(frozen=True)
class Chunk:
    """A part of a document that fits a prompt. `number` counts from 1; `tokens` without special tokens."""

    number: int
    text: str
    spans: tuple[Span, ...]
    tokens: int

    @property
    def pages(self) -> tuple[int, ...]:
        """Numbers of the pages that it has text of."""
        return tuple(dict.fromkeys(span.page for span in self.spans))

    def page_at(self, offset: int) -> int | None:
        """The page that the character at `offset` is from; one between two pages belongs to the later one."""
        return next((span.page for span in self.spans if offset < span.end), self.pages[-1] if self.spans else None)
