"""The JSON schemas that operations take: which are allowed, and what an answer to them looks like.

Allowed is what every engine's grammar and every table can hold: objects with named properties, lists, and leaves of one
type. Anything else is refused by its name. `required` is read and says nothing: every property is in the result, with
null for what the document does not say. `propertyOrdering` lists an object's properties in their order; without it they
come as they are written, and a stored schema always has it, because PostgreSQL's jsonb keeps no order.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError

from shared.contracts.documents import SCHEMA_BYTES
from shared.contracts.openai import SCHEMA_BYTES as ANSWER_BYTES
from shared.errors import FieldError, ValidationFailed

LEAF_TYPES: Final = ("string", "number", "integer", "boolean", "null")
NOTES: Final = frozenset({"type", "title", "description", "$schema", "$id", "$comment"})
KEYWORDS: Final = {
    "object": NOTES | {"properties", "required", "additionalProperties", "propertyOrdering"},
    "array": NOTES | {"items"},
    "leaf": NOTES
    | {"enum", "const", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    | {"minLength", "maxLength"},
}
GUIDED: Final = ("type", "enum", "const", "format")  #: keywords of a leaf that a grammar holds; the others are checked
DEPTH: Final = 8
LEAVES: Final = 500
PAGE: Final = {"type": ["integer", "null"]}
QUOTE: Final = {"type": ["string", "null"]}
FORMATS: Final = FormatChecker(["date"])


@dataclass(frozen=True)
class Shape:
    """A checked schema as a tree. `kind` is object, array or leaf."""

    kind: str
    schema: dict[str, Any]
    properties: dict[str, "Shape"] = field(default_factory=dict)
    items: "Shape | None" = None
    validator: Draft202012Validator | None = None  #: of a leaf

    @property
    def description(self) -> str:
        """What the schema says about it, on one line."""
        return " ".join(str(self.schema.get("description") or self.schema.get("title") or "").split())

    @property
    def named_type(self) -> str:
        """Its type in a few words, for a prompt."""
        if "enum" in self.schema:
            return "one of " + ", ".join(json.dumps(each, ensure_ascii=False) for each in self.schema["enum"])
        if "const" in self.schema:
            return json.dumps(self.schema["const"], ensure_ascii=False)
        named = _type(self.schema)
        return "date, YYYY-MM-DD" if self.schema.get("format") == "date" else "list" if named == "array" else named

    def leaves(self, path: str = "") -> Iterator[tuple[str, "Shape"]]:
        """Path and shape of every leaf; `*` stands for the number of a list's entry."""
        if self.kind == "leaf":
            yield path, self
        for name, shape in self.children():
            yield from shape.leaves(join(path, name))

    def children(self) -> Iterator[tuple[str, "Shape"]]:
        """What it is made of; a list of its one kind of entry, `*`."""
        yield from self.properties.items()
        if self.items is not None:
            yield "*", self.items

    def problem(self, value: Any) -> str | None:
        """What is wrong with a leaf's value."""
        assert self.validator is not None
        found = next(self.validator.iter_errors(value), None)
        return None if found is None else found.message[:200]


def join(path: str, step: str | int) -> str:
    """A path and one step further."""
    return f"{path}.{step}" if path else str(step)


def shape(schema: dict[str, Any]) -> Shape:
    """The tree of a schema that `check` has passed."""
    kind = _kind(schema)
    if kind == "leaf":
        return Shape(kind, schema, validator=Draft202012Validator(schema, format_checker=FORMATS))
    if kind == "array":
        return Shape(kind, schema, items=shape(schema["items"]))
    properties = schema["properties"]
    return Shape(kind, schema, properties={name: shape(properties[name]) for name in _order(schema)})


def ordered(schema: dict[str, Any]) -> dict[str, Any]:
    """A checked schema that says in which order its properties come."""
    if _kind(schema) == "array":
        return schema | {"items": ordered(schema["items"])}
    if _kind(schema) != "object":
        return schema
    properties = {name: ordered(each) for name, each in schema["properties"].items()}
    return schema | {"properties": properties, "propertyOrdering": _order(schema)}


def check(schema: dict[str, Any], *, param: str, root: str | None = "object") -> Shape:
    """The tree of a caller's schema. `root` is the type that it must have; None: any.

    Raises:
        ValidationFailed: it is not a schema, or uses what is not supported; `param` leads to the keyword.
    """
    _sizes(schema, param)
    leaves = _walk(schema, param, depth=1)
    if root is not None and _type(schema) != root:
        raise _refused(f"{param}.type", f"the schema is that of an {root}")
    if leaves > LEAVES:
        raise _refused(param, f"the schema has {leaves} fields; the most is {LEAVES}")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = ".".join((param, *map(str, error.absolute_path)))
        raise _refused(where, f"not a JSON schema (draft 2020-12): {error.message[:200]}") from error
    found = shape(schema)
    size = len(json.dumps(evidenced(found)))
    if size > ANSWER_BYTES:
        raise _refused(param, f"the schema of the answers takes {size} bytes; the most is {ANSWER_BYTES}")
    return found


def evidenced(shape: Shape) -> dict[str, Any]:
    """The schema of an answer in which every leaf is `{"value", "page", "quote"}`, null for what is not there.

    Leaves of one type share a definition: written out, 240 of them would be more than an engine takes.
    """
    cells: dict[str, dict[str, Any]] = {}
    found = _evidenced(shape, cells)
    return found | {"$defs": {f"cell{number}": each for number, each in enumerate(cells.values())}}


def _evidenced(shape: Shape, cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if shape.kind == "leaf":
        value = guided(shape)
        key = json.dumps(value)
        cells.setdefault(key, closed({"value": {"anyOf": [value, {"type": "null"}]}, "page": PAGE, "quote": QUOTE}))
        return {"$ref": f"#/$defs/cell{list(cells).index(key)}"}
    if shape.items is not None:
        return {"type": "array", "items": _evidenced(shape.items, cells)}
    return closed({name: _evidenced(each, cells) for name, each in shape.properties.items()})


def guided(shape: Shape) -> dict[str, Any]:
    """The schema as a grammar holds it: types, choices and dates. Notes and bounds are left out."""
    if shape.kind == "leaf":
        return {name: shape.schema[name] for name in GUIDED if name in shape.schema}
    if shape.items is not None:
        return {"type": "array", "items": guided(shape.items)}
    return closed({name: guided(each) for name, each in shape.properties.items()})


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    """An object of exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _walk(schema: Any, param: str, *, depth: int) -> int:
    """Check one level and those below; how many leaves there are."""
    if not isinstance(schema, dict):
        raise _refused(param, "a schema is an object")
    if depth > DEPTH:
        raise _refused(param, f"schemas are nested at most {DEPTH} deep")
    kind = _kind(schema, param)
    for name in schema:
        if name not in KEYWORDS[kind]:
            raise _refused(f"{param}.{name}", f"{name} is not supported here", code="unsupported_parameter")
    if kind == "leaf":
        return _leaf(schema, param)
    if kind == "array":
        if "items" not in schema:
            raise _refused(f"{param}.items", "a list needs the schema of its items")
        return _walk(schema["items"], f"{param}.items", depth=depth + 1)
    return _object(schema, param, depth=depth)


def _object(schema: dict[str, Any], param: str, *, depth: int) -> int:
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        raise _refused(f"{param}.properties", "an object needs properties")
    if schema.get("additionalProperties", False) is not False:
        raise _refused(f"{param}.additionalProperties", "only false: name every property")
    if "propertyOrdering" in schema and not _same_names(schema["propertyOrdering"], properties):
        raise _refused(f"{param}.propertyOrdering", "lists every property once")
    leaves = 0
    for name, each in properties.items():
        where = f"{param}.properties.{name}"
        if not name or "." in name or name == "*" or name.isdigit():
            raise _refused(where, "a property's name is not empty, holds no dot, and is no number")
        leaves += _walk(each, where, depth=depth + 1)
    return leaves


def _order(schema: dict[str, Any]) -> list[str]:
    return list(schema.get("propertyOrdering") or schema["properties"])


def _same_names(order: Any, properties: dict[str, Any]) -> bool:
    texts = isinstance(order, list) and all(isinstance(name, str) for name in order)
    return texts and sorted(order) == sorted(properties)


def _leaf(schema: dict[str, Any], param: str) -> int:
    if schema.get("format", "date") != "date":
        raise _refused(f"{param}.format", "the only format is date", code="unsupported_parameter")
    choices = schema.get("enum", [])
    choices = choices if isinstance(choices, list) else [choices]
    if any(isinstance(each, dict | list) for each in [*choices, schema.get("const")]):
        raise _refused(f"{param}.enum", "choices are texts, numbers, booleans or null")
    return 1


def _kind(schema: dict[str, Any], param: str = "") -> str:
    named = _type(schema)
    if named in {"object", "array"}:
        return named
    if named in LEAF_TYPES or (named == "" and ("enum" in schema or "const" in schema)):
        return "leaf"
    for name in schema:  # a keyword that is not supported says more than a type that is missing
        if not any(name in known for known in KEYWORDS.values()):
            raise _refused(f"{param}.{name}", f"{name} is not supported here", code="unsupported_parameter")
    raise _refused(f"{param}.type", f"type is object, array, {', '.join(LEAF_TYPES)}, or one of these with null")


def _type(schema: dict[str, Any]) -> str:
    """The type, null aside; empty when there is none or several."""
    named = schema.get("type")
    if isinstance(named, list):
        others = [each for each in named if each != "null"]
        named = others[0] if len(others) == 1 and len(named) <= 2 else ""
    return named if isinstance(named, str) else ""


def _sizes(schema: dict[str, Any], param: str) -> None:
    try:
        size = len(json.dumps(schema))
        clean = all(storable(text) for text in _texts(schema))
    except RecursionError as error:
        raise _refused(param, f"schemas are nested at most {DEPTH} deep") from error
    if size > SCHEMA_BYTES:
        raise _refused(param, f"the schema takes {size} bytes; the most is {SCHEMA_BYTES}")
    if not clean:
        raise _refused(param, "must be valid Unicode without the NUL character")


def storable(text: str) -> bool:
    """Whether PostgreSQL's jsonb can hold a text."""
    return "\x00" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(each)


def _refused(param: str, message: str, *, code: str = "invalid_schema") -> ValidationFailed:
    return ValidationFailed(message, errors=(FieldError(param, code, message),))
