"""XLSX: a page a sheet, hidden ones too; its name, then a line a row, cells parted by tabs.

Formulas are read as the value that was saved with them; one that no program ever worked out has none.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from pathlib import Path
from zipfile import BadZipFile

from workers.documents.cleaning import tidy
from workers.documents.refusals import damaged
from workers.documents.types import Page


def read(path: Path) -> Iterator[Page]:
    """The sheets, in the order of their tabs; charts are left out."""
    from openpyxl import load_workbook  # noqa: PLC0415 - loads numpy where there is one; the reader hides it
    from openpyxl.utils.exceptions import InvalidFileException  # noqa: PLC0415

    try:
        with path.open("rb") as file:  # a name without the right ending would be refused
            book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
            for number, sheet in enumerate(book.worksheets, start=1):
                sheet.reset_dimensions()  # a file may claim sixteen thousand columns
                lines = [line for row in sheet.iter_rows(values_only=True) if (line := _line(row))]
                yield Page(number, "\n".join([tidy(sheet.title), *lines]))
    except (KeyError, ValueError, TypeError, IndexError, BadZipFile, InvalidFileException, SyntaxError) as error:
        raise damaged(f"It is no complete workbook ({type(error).__name__}).") from error


def _line(row: Sequence[object]) -> str:
    return "\t".join(_cell(value) for value in row).rstrip("\t")


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return f"{value}".upper()
        case float() if value.is_integer() and abs(value) < 1e15:  # exact, and shown without an exponent
            return str(int(value))
        case date() | time():
            return _moment(value)
        case _:
            return " ".join(tidy(str(value)).split())


def _moment(value: date | time) -> str:
    if not isinstance(value, datetime):
        return value.isoformat()
    return value.date().isoformat() if value.time() == time() else value.isoformat(sep=" ", timespec="seconds")
