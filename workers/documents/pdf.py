"""PDF, read by pdfium: text in the order of the page's content, a line a line.

Values of form fields, annotations and what lies outside the page's box are left out.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pypdfium2
from pypdfium2 import raw

from workers.documents.cleaning import of_pdf
from workers.documents.refusals import damaged, encrypted, too_many_pages
from workers.documents.types import Page, Refused

OCR_DPI: Final = 200
OCR_PIXELS: Final = 16_000_000  # of a picture; A3 at 200 dots an inch has 7.7 million
PICTURED: Final = 0.25  # share of pages without text, above which a document counts as scanned
_NESTED: Final = 3  # forms in forms, in which a picture is looked for


@dataclass(frozen=True)
class Picture:
    """A page without text, as PNG."""

    page: int
    png: bytes


@dataclass(frozen=True)
class Unread:
    """Numbers of the pages that were pictures without text."""

    pages: tuple[int, ...]


def count(document: pypdfium2.PdfDocument, *, most: int) -> int:
    """Its pages.

    Raises:
        Refused: more than `most`, or none.
    """
    pages = len(document)
    if pages > most:
        raise too_many_pages(most, pages)
    if not pages:
        raise damaged("It has no pages.")
    return pages


def read(path: Path, *, most: int, images: bool) -> Iterator[Page | Picture | Unread]:
    """Pages; those without text but with pictures as such if `images`, else their numbers at the end.

    Raises:
        Refused: encrypted, damaged, too long, or scanned.
    """
    document = _opened(path)
    pages, scanned = count(document, most=most), list[int]()
    for number in range(1, pages + 1):
        page = _loaded(document, number)
        text = of_pdf(_text(page))
        if text or not _has_picture(page):
            yield Page(number, text)
        elif images:
            yield Picture(number, _png(page))
        else:
            scanned.append(number)
            yield Page(number, "")
        page.close()
    if len(scanned) > PICTURED * pages:
        raise _scanned(scanned, pages)
    if scanned:
        yield Unread(tuple(scanned))


def _opened(path: Path) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code in {raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY}:
            raise encrypted() from error
        raise damaged("It is no complete PDF.") from error


def _loaded(document: pypdfium2.PdfDocument, number: int) -> pypdfium2.PdfPage:
    try:
        return document[number - 1]
    except pypdfium2.PdfiumError as error:
        raise damaged(f"Page {number} cannot be loaded.") from error


def _text(page: pypdfium2.PdfPage) -> str:
    text = page.get_textpage()
    try:
        return str(text.get_text_bounded())
    finally:
        text.close()


def _has_picture(page: pypdfium2.PdfPage) -> bool:
    return any(True for _ in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=_NESTED))


def _png(page: pypdfium2.PdfPage) -> bytes:
    width, height = page.get_size()  # points of 1/72 inch
    scale = min(OCR_DPI / 72, (OCR_PIXELS / max(width * height, 1)) ** 0.5)
    picture, written = page.render(scale=scale, grayscale=True).to_pil(), io.BytesIO()
    picture.save(written, "PNG", compress_level=1)
    return written.getvalue()


def _scanned(pages: list[int], of: int) -> Refused:
    which = f"all {of} pages" if len(pages) == of else f"{len(pages)} of {of} pages ({_numbers(pages)})"
    return Refused(
        "scanned_document",
        f"The document is scanned: {which} are pictures without text.",
        "Run text recognition over it and upload the result, or have the operator set ocr_command.",
    )


def _numbers(pages: list[int]) -> str:
    shown = ", ".join(map(str, pages[:20]))
    return f"{shown}, …" if len(pages) > 20 else shown
