"""`results.jsonl`: one line for each line of the input that was run, in input order, whoever of a family ran it."""

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import orjson

from services.inference import repository
from shared.db.session import Database

NAME = "results.jsonl"
MEDIA_TYPE = "application/jsonl"
PAGE = 500


def line(index: int, *, output: Mapping[str, Any] | None, error: Mapping[str, Any] | None) -> bytes:
    """One line of the file (`shared.contracts.inference.LineResult`), newline included."""
    return orjson.dumps({"index": index, "output": output, "error": error}, option=orjson.OPT_APPEND_NEWLINE)


def stream(database: Database, tenant_id: UUID, job_id: UUID) -> Iterator[bytes]:
    """The whole file, a page of lines at a time; no transaction is open between two of them.

    Lines that nobody ran before the job ended are left out: their numbers are missing.

    Raises:
        DatabaseUnavailable: the lines cannot be read.
    """
    with database.transaction() as session:
        parts = repository.parts(session, tenant_id, job_id)
    for part in parts:
        after: int | None = -1
        while after is not None:
            with database.transaction() as session:
                rows = repository.lines(session, part, after=after, limit=PAGE)
            yield b"".join(line(row.line_no, output=row.output, error=row.error) for row in rows)
            after = rows[-1].line_no if len(rows) == PAGE else None
