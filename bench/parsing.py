"""Pages a second a core, from a file to its text in the worker, sandbox included.

CPU time of everything counts: this process, the reading process and its start, and the fork of each document.
"""

import asyncio
import html
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from docx import Document
from openpyxl import Workbook
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from bench.report import Report, Row
from infra.documents.reports import REMARKS
from shared.settings import Settings
from workers.documents.reading import Readers, parse

LINES: Final = 48  # of a page, about 80 characters each: 3,800 characters
AIM: Final = 50


@dataclass(frozen=True)
class Case:
    """Some documents of one make."""

    what: str
    ending: str
    write: Callable[[Path, int], None]
    documents: int
    pages: int
    kept: bool = True  #: the reading process goes on to the next document


def page(number: int) -> list[str]:
    """The lines of a page."""
    words = islice(cycle(REMARKS), number, number + LINES)
    return [
        f"{number}.{line} {remark} Amount {number * line:,} thousand." for line, remark in enumerate(words, start=1)
    ]


def pdf(path: Path, pages: int) -> None:
    """Text, a line a line."""
    canvas = Canvas(str(path), pagesize=A4)
    for number in range(1, pages + 1):
        text = canvas.beginText(40, 800)
        text.setFont("Helvetica", 9)
        for line in page(number):
            text.textLine(line)
        canvas.drawText(text)
        canvas.showPage()
    canvas.save()


def docx(path: Path, pages: int) -> None:
    """A paragraph a line, explicit page breaks."""
    document = Document()
    for number in range(1, pages + 1):
        for line in page(number):
            document.add_paragraph(line).paragraph_format.page_break_before = line.startswith(f"{number}.1 ")
    document.save(str(path))


def xlsx(path: Path, pages: int) -> None:
    """A row a line, in cells of a word."""
    book = Workbook(write_only=True)
    for number in range(1, pages + 1):
        sheet = book.create_sheet(f"Sheet {number}")
        for line in page(number):
            sheet.append(line.split())
    book.save(path)


def web(path: Path, pages: int) -> None:
    """A paragraph a line; a form feed ends a page."""
    body = "\f".join("".join(f"<p>{html.escape(line)}</p>\n" for line in page(n)) for n in range(1, pages + 1))
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{body}")


CASES: Final = (
    Case("text PDF, 10 pages each, process kept", "pdf", pdf, documents=40, pages=10),
    Case("text PDF, 10 pages each, a fresh process each", "pdf", pdf, documents=10, pages=10, kept=False),
    Case("text PDF, 300 pages", "pdf", pdf, documents=2, pages=300),
    Case("DOCX, 10 pages each", "docx", docx, documents=10, pages=10),
    Case("XLSX, 10 sheets each", "xlsx", xlsx, documents=10, pages=10),
    Case("HTML, 10 pages each", "html", web, documents=20, pages=10),
)


async def read(paths: list[Path], *, kept: bool) -> int:
    """Read them one after the other; answers the pages."""
    settings = Settings(document_parsers=1)
    if not kept:
        return sum([len((await parse(path, filename=path.name, settings=settings)).pages) for path in paths])
    async with Readers(settings) as readers:
        return sum([len((await readers.parse(path, filename=path.name)).pages) for path in paths])


def cpu_s() -> float:
    """CPU time of this process and of the children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(report: Report) -> None:
    """All cases."""
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"{number}.{case.ending}") for number in range(case.documents)]
            case.write(paths[0], case.pages)
            for path in paths[1:]:
                path.write_bytes(paths[0].read_bytes())
            began, used = time.perf_counter(), cpu_s()
            pages = asyncio.run(read(paths, kept=case.kept))
            rate = pages / (cpu_s() - used)
            note = f"{pages} pages, {time.perf_counter() - began:.2f} s by the clock"
        aim, reached = (f"≥ {AIM}", rate >= AIM) if case.kept else ("", None)
        report.add(Row("parsing", case.what, rate, "pages/s/core", aim, reached, note))
