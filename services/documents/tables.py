"""The table of a set: a row for each document, the same columns in `results.csv` and `results.parquet`.

Columns: `file_id`, `filename`, `status` (ok, flagged, error), `pages`; then of `extract` for each field of the schema
its value and `<field>.page`, `<field>.quote`, `<field>.check`; of `classify` the same of `label`, or of `labels`; of
the others `text`; then `flags`, `unfit` and `error`. A field is named by its path (`balance.assets`). A list is one
field: its value is JSON, its page the first one, its check the worst of its entries'. A field whose name is taken is
called `result.<field>`.

Columns have the type that the schema gives: number, integer, boolean, date or text. A value that does not fit its
column is left out there and stands in `unfit`, a JSON object by path; `results.jsonl` has every value as it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from services.documents.records import Record
from services.documents.rules import day_of
from services.documents.schemas import Shape, join
from shared.contracts.documents import Check, Classify, Extract, Operation, Value


class Type(StrEnum):
    """What a column holds."""

    TEXT = "text"
    NUMBER = "number"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    DATE = "date"
    JSON = "json"


@dataclass(frozen=True)
class Column:
    """One column of both files."""

    name: str
    type: Type = Type.TEXT


@dataclass(frozen=True)
class Field:
    """A value of the schema that has columns: a leaf, or a list as one."""

    path: str
    type: Type


FIRST = (Column("file_id"), Column("filename"), Column("status"), Column("pages", Type.INTEGER))
LAST = (Column("flags"), Column("unfit"), Column("error"))


class Table:
    """The columns of an operation's results, and the row of a record."""

    def __init__(self, operation: Operation, shape: Shape | None) -> None:
        self._root: str | None = None  #: field that the whole result is, where it is no object
        if isinstance(operation, Extract):
            assert shape is not None
            self._fields = list(fields(shape))
        elif isinstance(operation, Classify):
            self._root = "labels" if operation.multi_label else "label"
            self._fields = [Field(self._root, Type.JSON if operation.multi_label else Type.TEXT)]
        else:
            self._root, self._fields = "text", []
        self.columns = [*FIRST, *self._columns(), *LAST]

    def row(self, record: Record) -> list[Any]:
        """The record's values, one for each column, of the column's type or None."""
        unfit: dict[str, Any] = {}
        cells = list(self._cells(record, unfit))
        flags: Any = None
        if (result := record.result) is not None:
            flags = " ".join(result.all_flags) or None
        pages = result.pages if result else None
        told = json(unfit) if unfit else None
        return [record.file_id, record.filename, record.status.value, pages, *cells, flags, told, record.reason]

    def _columns(self) -> Iterator[Column]:
        taken = {column.name for column in (*FIRST, *LAST)}
        for each in self._fields:
            yield from _named(each, taken)
        if not self._fields:
            yield Column("text")

    def _cells(self, record: Record, unfit: dict[str, Any]) -> Iterator[Any]:
        result = record.result.result if record.result else None
        if not self._fields:
            yield _text(result)
            return
        whole = result if self._root is None else {self._root: result}
        values = {value.path: value for value in record.result.values} if record.result else {}
        for each in self._fields:
            yield from _field(each, whole, values, unfit)


def fields(shape: Shape, path: str = "") -> Iterator[Field]:
    """The fields of a schema that have columns, in its order."""
    if shape.kind == "object":
        for name, each in shape.properties.items():
            yield from fields(each, join(path, name))
    else:
        yield Field(path, Type.JSON if shape.kind == "array" else _type(shape.schema))


def json(value: Any) -> str:
    """JSON on one line."""
    return orjson.dumps(value).decode()


class _Unfit(Exception):
    """A value does not fit its column."""

    @classmethod
    def unless(cls, fits: object) -> None:
        """Raise it unless the value fits."""
        if not fits:
            raise cls


def _named(each: Field, taken: set[str]) -> tuple[Column, ...]:
    """The four columns of a field. Names that differ in case alone are one name to many readers."""
    name = each.path
    while True:
        columns = (
            Column(name, each.type),
            Column(f"{name}.page", Type.INTEGER),
            Column(f"{name}.quote"),
            Column(f"{name}.check"),
        )
        names = {column.name.casefold() for column in columns}
        if not names & taken:
            taken |= names
            return columns
        name = f"result.{name}"


def _field(each: Field, result: Any, values: dict[str, Value], unfit: dict[str, Any]) -> Iterator[Any]:
    """The value, the page, the quote and the check of one field."""
    if each.type is Type.JSON:
        found, own = _walk(result, each.path), f"{each.path}."
        entries = [value for path, value in values.items() if path.startswith(own)]
    else:
        value = values.get(each.path)
        found = _walk(result, each.path) if value is None else value.value
        entries = [] if value is None else [value]
    try:
        yield None if found is None else _fit(each.type, found)
    except _Unfit:
        unfit[each.path] = found
        yield None
    yield next((value.page for value in entries if value.page is not None), None)
    yield next((value.quote for value in entries if value.quote is not None), None)
    yield _worst(entries)


def _fit(type: Type, value: Any) -> Any:
    match type:
        case Type.JSON:
            return json(value)
        case Type.TEXT:
            return _text(value)
        case Type.BOOLEAN:
            _Unfit.unless(isinstance(value, bool))
            return value
        case Type.DATE:
            day = day_of(value)
            _Unfit.unless(day)
            return day
    _Unfit.unless(isinstance(value, int | float) and not isinstance(value, bool))
    if type is Type.NUMBER:
        return value
    _Unfit.unless(value == int(value) and -(2**63) <= value < 2**63)
    return int(value)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json(value)


def _worst(entries: Sequence[Value]) -> str | None:
    """What the rules found of all of a list's entries."""
    checks = [value.check for value in entries]
    broken = next((value.check for value in entries if value.violating), None)
    if broken is not None or not checks:
        return broken
    return str(Check.UNCHECKED if Check.UNCHECKED in checks else Check.VERIFIED)


def _walk(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _type(schema: dict[str, Any]) -> Type:
    """A leaf's type; of choices without one, that of all of them."""
    named = schema.get("type")
    kinds = {each for each in (named if isinstance(named, list) else [named]) if each not in ("null", None)}
    if not kinds:
        choices = schema["enum"] if "enum" in schema else [schema.get("const")]
        kinds = {_KINDS.get(type(choice), "string") for choice in choices if choice is not None}
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    kind = kinds.pop() if len(kinds) == 1 else "string"
    if kind == "string":
        return Type.DATE if schema.get("format") == "date" else Type.TEXT
    return Type(kind)


_KINDS = {bool: "boolean", int: "integer", float: "number"}
