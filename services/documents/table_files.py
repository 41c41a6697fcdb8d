"""`results.csv` and `results.parquet`: the rows of a table, written as they come."""

import csv
import re
from datetime import date
from pathlib import Path
from typing import Any

from services.documents.tables import Table, Type

CELLS = 500_000  #: of a row group of the Parquet file: tens of megabytes while it is gathered
BYTES = 16 * 1024**2  #: of texts in it

#: A spreadsheet takes a text that begins so for a formula (OWASP, CSV injection), full-width forms too.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


class Csv:
    """`results.csv`: UTF-8 without a mark, RFC 4180. A text that a spreadsheet would run has a `'` before it."""

    name, media_type = "results.csv", "text/csv"

    def __init__(self, path: Path, table: Table) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\r\n")
        self._writer.writerow([safe(column.name) for column in table.columns])

    def add(self, row: list[Any]) -> None:
        """Write a row."""
        self._writer.writerow([_cell(value) for value in row])

    def close(self) -> None:
        self._file.close()


class Parquet:
    """`results.parquet`: typed columns; written a row group at a time."""

    name, media_type = "results.parquet", "application/vnd.apache.parquet"

    def __init__(self, path: Path, table: Table) -> None:
        import pyarrow as pa  # noqa: PLC0415 — 50 MB that nobody else needs
        import pyarrow.parquet as pq  # noqa: PLC0415

        types = {
            Type.NUMBER: pa.float64(),
            Type.INTEGER: pa.int64(),
            Type.BOOLEAN: pa.bool_(),
            Type.DATE: pa.date32(),
        }
        self._schema = pa.schema([(column.name, types.get(column.type, pa.string())) for column in table.columns])
        self._batch, self._writer = pa.record_batch, pq.ParquetWriter(path, self._schema)
        self._rows: list[list[Any]] = []
        self._bytes = 0

    def add(self, row: list[Any]) -> None:
        """Keep a row, and write those that are kept when they are many or large."""
        self._rows.append(row)
        self._bytes += sum(len(value) for value in row if isinstance(value, str))
        if len(self._rows) * len(row) >= CELLS or self._bytes >= BYTES:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        columns = [list(column) for column in zip(*self._rows, strict=True)]
        arrays = {field.name: values for field, values in zip(self._schema, columns, strict=True)}
        self._writer.write_batch(self._batch(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0


def safe(text: str) -> str:
    """The text as a spreadsheet may see it: never a formula."""
    return f"'{text}" if text.startswith(FORMULA) and not _NUMBER.fullmatch(text) else text


def _cell(value: Any) -> Any:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return safe(value)
        case date():
            return value.isoformat()
    return value
