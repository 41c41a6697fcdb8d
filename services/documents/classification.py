"""Classify: labels for each part, and one or several for the document."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from services.documents import prompts
from services.documents.evidence import Source
from services.documents.schemas import PAGE, QUOTE, closed
from services.documents.tasks import Merged, Part, Reading, Terms, cell, evidence, flags_of, marked, shortened
from shared.contracts.documents import Classify, Flag, Value


class Classification:
    """The task of a `Classify`. A label of a document without one is null; with `multi_label` the list is empty."""

    def __init__(self, operation: Classify, knowledge: Terms) -> None:
        self._multi = operation.multi_label
        self._names = [label.name for label in operation.named]
        self.schema: dict[str, Any] | None = self._schema()
        self._instruction = prompts.classify(
            operation.named,
            multi=self._multi,
            instructions=operation.instructions,
            hint=knowledge.hint(self._names),
        )

    def prompt(self, part: Part) -> str:
        return prompts.about(self._instruction, marked(part))

    def read(self, said: Any, part: Part, source: Source) -> Reading:
        given = said.get("labels") if self._multi and isinstance(said, dict) else [said]
        if not isinstance(given, list):
            return Reading(said=said, flags=(Flag.INVALID,), problems=("labels: a list is expected",))
        found = [self._checked(each, part, source) for each in given]
        values = tuple(value for value, _ in found if value.value is not None)
        problems = tuple(problem for _, problem in found if problem is not None)
        return Reading(values, said=said, problems=problems)

    def merge(self, readings: Sequence[tuple[Part, Reading]]) -> Merged:
        flags = flags_of(reading.flags for _, reading in readings)
        values = [value for _, reading in readings for value in reading.values]
        if self._multi:
            chosen = [self._best(name, values) for name in self._union(values)]
            labels = [each.value for each in chosen]
            placed = (each.model_copy(update={"path": f"labels.{at}"}) for at, each in enumerate(chosen))
            return Merged(labels, tuple(placed), flags)
        return self._single(values, flags)

    def _single(self, values: Sequence[Value], flags: tuple[Flag, ...]) -> Merged:
        votes = Counter(value.value for value in _good(values))
        if not votes:
            return Merged(None, (Value(path="label"),), flags)
        most = max(votes.values())
        winners = [name for name in self._names if votes[name] == most]
        best = self._best(winners[0], values).model_copy(update={"path": "label"})
        if len(winners) > 1:
            best = best.model_copy(update={"flags": flags_of([best.flags, (Flag.CONFLICT,)])})
        return Merged(best.value, (best,), flags)

    def _union(self, values: Sequence[Value]) -> list[str]:
        """Labels that any part says, in their given order."""
        said = {value.value for value in values}
        return [name for name in self._names if name in said]

    @staticmethod
    def _best(name: str, values: Sequence[Value]) -> Value:
        """The first value that says a label with good evidence, or the first that says it."""
        saying = [value for value in values if value.value == name]
        return next((value for value in saying if not value.flags), saying[0])

    def _checked(self, given: Any, part: Part, source: Source) -> tuple[Value, str | None]:
        value = cell(given, "label", name="label")
        if value.value in self._names or value.value is None:
            return evidence(value, part, source)
        told = f"label: {shortened(str(value.value))} is none of the labels"
        return value.model_copy(update={"value": None}), told

    def _schema(self) -> dict[str, Any]:
        if self._multi:
            one = closed({"label": {"enum": self._names}, "page": PAGE, "quote": QUOTE})
            return closed({"labels": {"type": "array", "items": one}})
        return closed({"label": {"enum": [*self._names, None]}, "page": PAGE, "quote": QUOTE})


def _good(values: Sequence[Value]) -> Sequence[Value]:
    """Values whose evidence holds, or all when none does."""
    return [value for value in values if not value.flags] or values
