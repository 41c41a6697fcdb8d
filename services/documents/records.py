"""`results.jsonl`: one record for each document of a set, in the order of the request."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import orjson

from services.documents import repository
from services.documents.schemas import Shape
from shared.contracts.documents import Check, DocumentInput, DocumentResult, violates
from shared.contracts.jobs import JobError, State
from shared.db.session import Database

PAGE = 100  #: documents read at once; a result has up to some hundred kilobytes

CANCELLED = JobError(code="document_cancelled", title="The set was cancelled before this document was read")
EXPIRED = JobError(code="document_expired", title="The set's deadline passed before this document was read")


class Status(StrEnum):
    """What became of a document, as the tables say it."""

    OK = "ok"
    FLAGGED = "flagged"  #: it has a result that a person should look at
    ERROR = "error"  #: it has none

    @classmethod
    def of(cls, result: DocumentResult | None) -> Self:
        """What a result, or that there is none, says."""
        if result is None:
            return cls.ERROR
        return cls.FLAGGED if result.flagged else cls.OK


@dataclass(frozen=True)
class Record:
    """One line of the file: a result, or why there is none."""

    file_id: str
    filename: str
    result: DocumentResult | None = None
    error: dict[str, Any] | None = None

    @classmethod
    def of_line(cls, line: bytes) -> Self:
        """The record that `line` wrote."""
        stored = orjson.loads(line)
        if "error" in stored:
            return cls(**stored)
        result = DocumentResult.model_validate(stored)
        return cls(result.file_id, result.filename, result)

    def line(self) -> bytes:
        """The line, newline included: a `DocumentResult`, or {"file_id", "filename", "error"}."""
        if self.result is not None:
            written: dict[str, Any] = self.result.model_dump(mode="json")
        else:
            written = {"file_id": self.file_id, "filename": self.filename, "error": self.error}
        return orjson.dumps(written, option=orjson.OPT_APPEND_NEWLINE)

    @property
    def status(self) -> Status:
        """What became of the document."""
        return Status.of(self.result)

    @property
    def reason(self) -> str | None:
        """The error as one line of text."""
        if self.error is None:
            return None
        return f"{self.error.get('code')}: {self.error.get('detail') or self.error.get('title')}"

    @property
    def broken(self) -> list[tuple[str, str]]:
        """(rule, path) of each value that breaks a rule."""
        values = self.result.values if self.result else ()
        return [(value.check.removeprefix(violates("")), value.path) for value in values if value.violating]

    @property
    def checks(self) -> "Checks":
        """How many values the rules found right, found wrong, and could not test."""
        found = Counter(value.check for value in self.result.values) if self.result else Counter[str]()
        verified, unchecked = found[Check.VERIFIED], found[Check.UNCHECKED]
        return Checks(verified, found.total() - verified - unchecked, unchecked)


@dataclass
class Checks:
    """Values by what the rules found."""

    verified: int = 0
    violating: int = 0
    unchecked: int = 0

    def add(self, other: "Checks") -> None:
        """Count others too."""
        self.verified += other.verified
        self.violating += other.violating
        self.unchecked += other.unchecked


@dataclass
class Totals:
    """What a set comes to."""

    documents: int = 0
    ok: int = 0
    flagged: int = 0
    errors: int = 0
    pages: int = 0
    ocr_pages: int = 0
    repaired: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    values: Checks = field(default_factory=Checks)
    cost: float = 0.0

    def add(self, record: Record) -> None:
        """Count a record."""
        self.documents += 1
        self.ok += record.status is Status.OK
        self.flagged += record.status is Status.FLAGGED
        self.errors += record.status is Status.ERROR
        self.values.add(record.checks)
        if (result := record.result) is not None:
            self.pages += result.pages
            self.ocr_pages += result.ocr_pages
            self.repaired += result.repaired
            self.prompt_tokens += result.usage.prompt_tokens
            self.completion_tokens += result.usage.completion_tokens


def stream(
    database: Database, tenant_id: UUID, set_id: UUID, *, total: int, shape: Shape | None = None
) -> Iterator[Record]:
    """The records of a set that has ended, a page at a time; no transaction is open between two of them.

    `shape` puts an object's properties in the order of the schema: PostgreSQL keeps none.

    Raises:
        DatabaseUnavailable: they cannot be read.
    """
    for first in range(0, total, PAGE):
        with database.transaction() as session:
            rows = repository.documents(session, tenant_id, set_id, first=first, count=PAGE)
        for row in rows:
            document = DocumentInput.model_validate(row.input)
            if row.output is None:
                error = row.error or _untouched(row.child_state, row.child_error)
                yield Record(document.file_id, document.filename, error=error)
            else:
                result = DocumentResult.model_validate(row.output)
                if shape is not None:
                    result = result.model_copy(update={"result": in_order(result.result, shape)})
                yield Record(document.file_id, document.filename, result)


def read(path: Path) -> Iterator[Record]:
    """The records of a file."""
    with path.open("rb") as file:
        yield from map(Record.of_line, file)


def write(records: Iterable[Record], path: Path) -> Totals:
    """Write the file, and count."""
    totals = Totals()
    with path.open("wb") as file:
        for record in records:
            file.write(record.line())
            totals.add(record)
    return totals


def in_order(value: Any, shape: Shape) -> Any:
    """The same value with its properties in the order of the schema; what the schema does not name comes last."""
    if isinstance(value, dict) and shape.properties:
        named = [name for name in shape.properties if name in value]
        others = sorted(value.keys() - shape.properties.keys())
        ordered = {name: in_order(value[name], shape.properties[name]) for name in named}
        return ordered | {name: value[name] for name in others}
    if isinstance(value, list) and shape.items is not None:
        return [in_order(each, shape.items) for each in value]
    return value


def _untouched(state: str, error: dict[str, Any] | None) -> dict[str, Any]:
    """Why nobody read a document: its job was cancelled, came too late, or failed."""
    if state == State.FAILED and error is not None:
        return error
    told = EXPIRED if state == State.EXPIRED else CANCELLED
    return told.model_dump(mode="json")
