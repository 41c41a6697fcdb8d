"""Lines of a family a few at a time: however long they are, a page of them fits into memory."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from shared.db.session import Database

LINES = 500
BYTES = 4 * 1024**2  #: as stored; what compresses well is several times that in memory

Read = Callable[..., Sequence[Row[Any]]]  #: (session, parts, first=, last=) → rows of those lines


def pages(
    database: Database, parts: Sequence[UUID], *, total: int, sizes: Read, lines: Read
) -> Iterator[Sequence[Row[Any]]]:
    """Lines 0 to `total` - 1 of these jobs, in order; no transaction is open between two pages.

    By ranges of their numbers, because an index serves that: to find the next 500 of 50 jobs it would read them all.

    Raises:
        DatabaseUnavailable: the lines cannot be read.
    """
    for start in range(0, total, LINES):
        with database.transaction() as session:
            found = sizes(session, parts, first=start, last=start + LINES - 1)
        for first, last in _ranges(found):
            with database.transaction() as session:
                rows = lines(session, parts, first=first, last=last)
            yield rows


def _ranges(found: Sequence[Row[Any]]) -> Iterator[tuple[int, int]]:
    """(first, last) line of each page: at most `BYTES`, or one line."""
    first, held = 0, 0
    for at, row in enumerate(found):
        if held and held + row.size > BYTES:
            yield found[first].line_no, found[at - 1].line_no
            first, held = at, 0
        held += row.size
    if found:
        yield found[first].line_no, found[-1].line_no
