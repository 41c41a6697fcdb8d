"""Custom: a caller's prompt for each part, and the answers as they are or by a schema."""

from collections.abc import Sequence
from typing import Any

from services.documents import prompts
from services.documents.evidence import Source
from services.documents.schemas import Shape, guided
from services.documents.tasks import Merged, Part, Reading, flags_of
from shared.contracts.documents import Custom, Flag, Value


class Customized:
    """The task of a `Custom`."""

    def __init__(self, operation: Custom, shape: Shape | None) -> None:
        self._template = operation.template
        self._shape = shape
        self.schema: dict[str, Any] | None = None if shape is None else guided(shape)

    def prompt(self, part: Part) -> str:
        return prompts.custom(
            self._template,
            text="\n".join(text for _, text in part.pieces),
            filename=part.filename,
            pages=prompts.page_range(part.pages),
            chunk=part.number,
        )

    def read(self, said: Any, part: Part, source: Source) -> Reading:  # noqa: ARG002 - a task's signature
        assert self._shape is not None
        problems = tuple(_problems(self._shape, said))
        return Reading(said=said, flags=(Flag.INVALID,) if problems else (), problems=problems)

    def merge(self, readings: Sequence[tuple[Part, Reading]]) -> Merged:
        values = tuple(
            Value(path=f"chunks.{at}", value=reading.said, page=min(part.pages, default=None), flags=reading.flags)
            for at, (part, reading) in enumerate(readings)
        )
        said = [reading.said for _, reading in readings]
        return Merged(said[0] if len(said) == 1 else said, values, flags_of(reading.flags for _, reading in readings))


def _problems(shape: Shape, said: Any, path: str = "") -> list[str]:
    """What in an answer does not match the schema; a leaf may be null."""
    where = path or "the answer"
    if said is None and path:
        return []
    if shape.kind == "leaf":
        wrong = shape.problem(said)
        return [f"{where}: {wrong}"] if wrong else []
    if shape.items is not None:
        if not isinstance(said, list):
            return [f"{where}: a list is expected"]
        return [told for at, each in enumerate(said) for told in _problems(shape.items, each, f"{where}.{at}")]
    if not isinstance(said, dict):
        return [f"{where}: an object is expected"]
    found = [f"{where}: {name} is not in the schema" for name in said if name not in shape.properties]
    for name, child in shape.properties.items():
        if name in said:
            found += _problems(child, said[name], f"{path}.{name}" if path else name)
        elif name in shape.schema.get("required", ()):
            found.append(f"{where}: {name} is missing")
    return found
