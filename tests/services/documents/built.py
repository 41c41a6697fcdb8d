"""Records of documents, for tests of what is made of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from services.documents import outputs, records
from services.documents.outputs import Output
from services.documents.records import Record
from services.documents.report import About
from services.documents.schemas import shape
from shared.contracts.documents import DocumentResult, DocumentSetSpec, Extract, Value
from shared.contracts.jobs import JobError

UNREADABLE = JobError(code="encrypted", title="The file cannot be read", detail="it needs a password")

SCHEMA = {
    "type": "object",
    "properties": {
        "company": {"type": "string"},
        "assets": {"type": "number"},
        "staff": {"type": ["integer", "null"]},
        "audited": {"type": "boolean"},
        "closed": {"type": "string", "format": "date"},
        "address": {"type": "object", "properties": {"city": {"type": "string"}}},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"amount": {"type": "number"}}}},
    },
}


def spec(operation: dict[str, Any] | None = None, **fields: Any) -> DocumentSetSpec:
    given = operation or {"type": "extract", "schema": SCHEMA}
    return DocumentSetSpec.model_validate({"model": "tiny", "files": ["file-1"], "operation": given, **fields})


def value(path: str, value: Any, **fields: Any) -> Value:
    return Value(path=path, value=value, **fields)


def result(number: int, given: Any, *values: Value, **fields: Any) -> Record:
    document: dict[str, Any] = {
        "file_id": f"file-{number}",
        "filename": f"report {number}.pdf",
        "sha256": "ab" * 32,
        "format": "pdf",
        "pages": 3,
        "chunks": 1,
    }
    document |= {"result": given, "values": values} | fields
    return Record(document["file_id"], document["filename"], DocumentResult.model_validate(document))


def error(number: int, **fields: Any) -> Record:
    told = UNREADABLE.model_copy(update=fields).model_dump(mode="json")
    return Record(f"file-{number}", f"report {number}.pdf", error=told)


def write(folder: Path, found: Iterable[Record], given: DocumentSetSpec | None = None) -> list[Output]:
    """What `outputs.make` does behind the database."""
    given = given or spec()
    totals = records.write(found, folder / outputs.RECORDS)
    shaped = shape(given.operation.schema_) if isinstance(given.operation, Extract) else None
    return outputs.write(folder, given, shaped, about=About.of("docset_1", given, totals=totals))
