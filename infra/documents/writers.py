"""One writer for each format. The same report gives the same bytes, whenever and wherever it is written."""

import html
import io
import re
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from docx import Document
from openpyxl import Workbook
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import Flowable, PageBreak, Paragraph, SimpleDocTemplate, Spacer
from reportlab.platypus import Table as PdfTable

from infra.documents.reports import Report, Section, Table

_MADE: Final = datetime(2025, 1, 1, tzinfo=UTC)
_STAMP: Final = re.compile(rb"(<dcterms:(?:created|modified)[^>]*>)[^<]*")


def pdf(report: Report, path: Path) -> None:
    """A page a section, set by reportlab."""
    styles, story = getSampleStyleSheet(), list[Flowable]()
    for number, section in enumerate(report.sections):
        story += [PageBreak()] if number else []
        story.append(Paragraph(html.escape(section.title), styles["Heading1"]))
        for block in section.blocks:
            if isinstance(block, str):
                story.append(Paragraph(html.escape(block), styles["BodyText"]))
            else:
                grid = [("LINEBELOW", (0, 0), (-1, 0), 0.5, colors.black), ("ALIGN", (1, 0), (-1, -1), "RIGHT")]
                story += [Spacer(0, 6), PdfTable([list(row) for row in block.rows], style=grid), Spacer(0, 6)]
    SimpleDocTemplate(str(path), pagesize=A4, title=_title(report), author=report.company, invariant=1).build(story)


def docx(report: Report, path: Path) -> None:
    """A page a section, with explicit page breaks."""
    document = Document()
    document.core_properties.title, document.core_properties.author = _title(report), report.company
    document.core_properties.created = document.core_properties.modified = _MADE
    for number, section in enumerate(report.sections):
        if number:
            document.add_page_break()  # type: ignore[no-untyped-call]
        document.add_heading(section.title, level=1)
        for block in section.blocks:
            if isinstance(block, str):
                document.add_paragraph(block)
                continue
            table = document.add_table(rows=len(block.rows), cols=len(block.rows[0]))
            for row, cells in zip(table.rows, block.rows, strict=True):
                for cell, text in zip(row.cells, cells, strict=True):
                    cell.text = text
    written = io.BytesIO()
    document.save(written)
    path.write_bytes(_dated(written.getvalue()))


def xlsx(report: Report, path: Path) -> None:
    """A sheet a section; numbers are numbers."""
    book = Workbook()
    book.remove(book.worksheets[0])
    book.properties.created, book.properties.creator = _MADE.replace(tzinfo=None), report.company
    for number, section in enumerate(report.sections, start=1):
        sheet = book.create_sheet(f"{number} {re.sub(r'[^A-Za-z ]', '', section.title)}"[:31])
        sheet.append([section.title])
        for block in section.blocks:
            for row in ((block,),) if isinstance(block, str) else block.rows:
                sheet.append([_cell(text) for text in row])
    written = io.BytesIO()
    book.save(written)
    path.write_bytes(_dated(written.getvalue()))


def page(report: Report, path: Path) -> None:
    """HTML, with a style and a script that a reader has to leave out."""
    body = "\n".join(_html(section) for section in report.sections)
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(_title(report))}</title>\n"
        "<style>table { border-collapse: collapse }</style>\n"
        '<script>document.title = "Net income 1,000,000"</script>\n'
        f"</head>\n<body>\n{body}\n</body>\n</html>\n",
        encoding="utf-8",
    )


def markdown(report: Report, path: Path) -> None:
    """GitHub's flavour, with pipe tables."""
    parts = [part for section in report.sections for part in (f"# {section.title}", *map(_markdown, section.blocks))]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


WRITERS: Final[dict[str, Callable[[Report, Path], None]]] = {
    "pdf": pdf,
    "docx": docx,
    "xlsx": xlsx,
    "html": page,
    "md": markdown,
}


def _title(report: Report) -> str:
    return f"{report.company}: annual report {report.year}"


def _html(section: Section) -> str:
    parts = [f"<h1>{html.escape(section.title)}</h1>"]
    for block in section.blocks:
        if isinstance(block, str):
            parts.append(f"<p>{html.escape(block)}</p>")
            continue
        rows = ("".join(f"<td>{html.escape(text)}</td>" for text in row) for row in block.rows)
        parts.append("<table>\n" + "\n".join(f"<tr>{row}</tr>" for row in rows) + "\n</table>")
    return "\n".join(parts)


def _markdown(block: str | Table) -> str:
    if isinstance(block, str):
        return block
    head, *rows = (f"| {' | '.join(row)} |" for row in block.rows)
    return "\n".join([head, "|" + "---|" * len(block.rows[0]), *rows])


def _cell(text: str) -> str | int:
    plain = text.replace(",", "")
    return int(plain) if plain.isdigit() else text


def _dated(office: bytes) -> bytes:
    """An Office file whose members, and what its properties say of its making, carry one fixed date."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(office)) as given, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as made:
        for name in given.namelist():
            content = given.read(name)
            if name == "docProps/core.xml":
                content = _STAMP.sub(rb"\g<1>" + f"{_MADE:%Y-%m-%dT%H:%M:%SZ}".encode(), content)
            member = zipfile.ZipInfo(name, date_time=_MADE.timetuple()[:6])
            made.writestr(member, content, compress_type=zipfile.ZIP_DEFLATED)
    return written.getvalue()
