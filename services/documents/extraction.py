"""Extract: the fields of a schema, each with its page and its quote."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from services.documents import prompts, rules
from services.documents.answers import LONGEST
from services.documents.evidence import Source, fold, shows_day, supports
from services.documents.planting import flatten, plant
from services.documents.schemas import Shape, evidenced, join
from services.documents.tasks import Merged, Part, Reading, Terms, cell, evidence, flags_of, marked
from services.documents.terms import Normaliser
from shared.contracts.documents import Extract, Flag, Value

NOWHERE = 2**31  #: the place of a value without a page: behind all others


class Extraction:
    """The task of an `Extract`."""

    def __init__(self, operation: Extract, shape: Shape, knowledge: Terms) -> None:
        self.shape = shape
        self.schema: dict[str, Any] | None = evidenced(shape)
        self._pack = knowledge.pack
        hint = knowledge.hint([path for path, _ in shape.leaves()])
        self._instruction = prompts.extract(shape, instructions=operation.instructions, hint=hint)

    @cached_property
    def _terms(self) -> Normaliser:
        """Made when there is an answer: whoever checks a request needs none."""
        return Normaliser(self._pack)

    def prompt(self, part: Part) -> str:
        return prompts.about(self._instruction, marked(part))

    def read(self, said: Any, part: Part, source: Source) -> Reading:
        values, problems, wrong = list[Value](), list[str](), list[str]()
        for value, shape in _cells(self.shape, said, "", wrong):
            checked, problem = _checked(value, shape, part, source)
            values.append(checked)
            problems += [problem] if problem else []
        flags = (Flag.INVALID,) if wrong else ()
        return Reading(tuple(values), said=said, flags=flags, problems=(*wrong, *problems))

    def merge(self, readings: Sequence[tuple[Part, Reading]]) -> Merged:
        planted = [
            plant(self.shape, self._terms.of(reading.values), leaf=lambda value: value) for _, reading in readings
        ]
        values = rules.check(self._pack, tuple(flatten(self.shape, _merge(self.shape, planted))))
        return Merged(plant(self.shape, values), values, flags_of(reading.flags for _, reading in readings))


def _cells(shape: Shape, given: Any, path: str, wrong: list[str]) -> Iterable[tuple[Value, Shape]]:
    """Every leaf of an answer, unchecked; what has not the form of the schema is told in `wrong`."""
    if shape.kind == "leaf":
        yield cell(given, path), shape
    elif shape.items is not None:
        entries = given if isinstance(given, list) else []
        if given is not None and not isinstance(given, list):
            wrong.append(f"{path or 'the answer'}: a list is expected")
        for number, entry in enumerate(entries):
            yield from _cells(shape.items, entry, join(path, number), wrong)
    else:
        fields = given if isinstance(given, dict) else {}
        if given is not None and not isinstance(given, dict):
            wrong.append(f"{path or 'the answer'}: an object is expected")
        for name, child in shape.properties.items():
            yield from _cells(child, fields.get(name), join(path, name), wrong)


def _checked(value: Value, shape: Shape, part: Part, source: Source) -> tuple[Value, str | None]:
    if value.value == "" and value.quote is None:
        value = value.model_copy(update={"value": None})
    if value.value is None:
        return evidence(value, part, source)
    invalid = shape.problem(value.value)
    if invalid is not None:
        if isinstance(value.value, dict | list):  # a cell that is no cell: nothing of it can stand in a table
            value = value.model_copy(update={"value": json.dumps(value.value, ensure_ascii=False)[:1000]})
        return value.model_copy(update={"flags": (Flag.INVALID,)}), f"{value.path}: {invalid}"
    if shape.schema.get("type") == "integer" and isinstance(value.value, float) and abs(value.value) < LONGEST:
        value = value.model_copy(update={"value": int(value.value)})
    return evidence(value, part, source, shown=shows_day if shape.schema.get("format") == "date" else supports)


def _merge(shape: Shape, planted: Sequence[Any]) -> Any:
    """What the parts of a document say together, in their order."""
    if shape.kind == "leaf":
        return _choose([value for value in planted if isinstance(value, Value) and value.value is not None])
    if shape.items is not None:
        return _distinct(shape.items, [entry for entries in planted for entry in entries])
    return {name: _merge(child, [each[name] for each in planted]) for name, child in shape.properties.items()}


def _choose(values: Sequence[Value]) -> Value | None:
    """The first value in page order whose evidence holds; without one, the first that there is."""
    ordered = sorted(values, key=lambda value: value.page or NOWHERE)
    good = [value for value in ordered if not value.flags]
    if not good:
        return ordered[0] if ordered else None
    if len({_same(value.value) for value in good}) > 1:
        return good[0].model_copy(update={"flags": (Flag.CONFLICT,)})
    return good[0]


def _distinct(shape: Shape, entries: Sequence[Any]) -> list[Any]:
    """Entries that say something, each once; of equal ones the one with the fewest flags."""
    found: dict[str, Any] = {}
    for entry in entries:
        values = list(flatten(shape, entry))
        if all(value.value is None for value in values):
            continue
        key = json.dumps([[value.path, _same(value.value)] for value in values])
        if key not in found or _flags(shape, entry) < _flags(shape, found[key]):
            found[key] = entry
    return list(found.values())


def _flags(shape: Shape, entry: Any) -> int:
    return sum(len(value.flags) for value in flatten(shape, entry))


def _same(value: Any) -> Any:
    """The form that equal values share: 5 is 5.0, and spelling is folded."""
    return fold(value) if isinstance(value, str) else float(value) if isinstance(value, int | float) else value
