"""Summarize: sentences with their pages and quotes, for each part and then of one another."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from services.documents import prompts
from services.documents.evidence import Source
from services.documents.schemas import QUOTE, closed
from services.documents.tasks import Merged, Part, Reading, Terms, cell, evidence, flags_of, marked
from shared.contracts.documents import Flag, Summarize, Value

LEAST: Final = 2  #: summaries that one request combines: with fewer the tree would never end


class Summary:
    """The task of a `Summarize`. A reading's `said` is its sentences' pages, one tuple for each value."""

    schema: dict[str, Any] | None = closed(
        {
            "sentences": {
                "type": "array",
                "items": closed(
                    {
                        "text": {"type": "string"},
                        "pages": {"type": "array", "items": {"type": "integer"}},
                        "quote": QUOTE,
                    }
                ),
            }
        }
    )

    def __init__(self, operation: Summarize, knowledge: Terms) -> None:
        words, instructions = operation.words, operation.instructions
        hint = knowledge.hint(())
        self._instruction = prompts.summarize(words=words, instructions=instructions, hint=hint)
        self._combine = prompts.combine(words=words, instructions=instructions)

    def prompt(self, part: Part) -> str:
        return prompts.about(self._instruction, marked(part))

    def combine(self, readings: Sequence[Reading]) -> str:
        """What is asked to make one summary of several."""
        return prompts.about(self._combine, "\n".join(map(_spelled, readings)))

    def read(self, said: Any, part: Part, source: Source) -> Reading:
        given = said.get("sentences") if isinstance(said, dict) else None
        if not isinstance(given, list):
            return Reading(said=(), flags=(Flag.INVALID,), problems=("sentences: a list is expected",))
        values, pages, problems = list[Value](), list[tuple[int, ...]](), list[str]()
        for entry in given:
            sentence = cell(entry, f"sentences.{len(values)}", name="text")
            if not isinstance(sentence.value, str) or not sentence.value.strip():
                continue
            named = _pages(entry, source)
            near = sentence.model_copy(update={"value": sentence.value.strip(), "page": min(named, default=None)})
            value, problem = evidence(near, part, source)
            values.append(value)
            pages.append(_with(named, value))
            problems += [problem] if problem else []
        return Reading(tuple(values), said=tuple(pages), problems=tuple(problems))

    def merge(self, readings: Sequence[tuple[Part, Reading]]) -> Merged:
        """The text, one sentence after the other, each with the pages that it is about."""
        values = [value for _, reading in readings for value in reading.values]
        pages = [named for _, reading in readings for named in reading.said or ()]
        text = " ".join(_referenced(value, named) for value, named in zip(values, pages, strict=True))
        placed = (value.model_copy(update={"path": f"sentences.{at}"}) for at, value in enumerate(values))
        return Merged(text or None, tuple(placed), flags_of(reading.flags for _, reading in readings))


def groups(readings: Sequence[Reading], *, fits: Callable[[Sequence[Reading]], bool]) -> list[list[Reading]]:
    """Neighbours that are combined by one request each: as many as fit, and at least two. One may be left alone."""
    found: list[list[Reading]] = []
    for reading in readings:
        if found and (len(found[-1]) < LEAST or fits([*found[-1], reading])):
            found[-1].append(reading)
        else:
            found.append([reading])
    return found


def joined(readings: Sequence[Reading]) -> Reading:
    """Several summaries, one after the other."""
    values = tuple(value for reading in readings for value in reading.values)
    return Reading(values, said=tuple(pages for reading in readings for pages in reading.said or ()))


def _spelled(reading: Reading) -> str:
    lines = zip(reading.values, reading.said or (), strict=True)
    return "\n".join(
        json.dumps({"text": value.value, "pages": pages, "quote": value.quote}, ensure_ascii=False)
        for value, pages in lines
    )


def _pages(entry: Any, source: Source) -> tuple[int, ...]:
    """The pages that an answer names, those of them that the document has."""
    named = entry.get("pages") if isinstance(entry, dict) else None
    whole = [page for page in named if type(page) is int and page in source] if isinstance(named, list) else []
    return tuple(sorted(set(whole)))


def _with(pages: tuple[int, ...], value: Value) -> tuple[int, ...]:
    """The named pages and the one that the quote is on."""
    good = not value.flags and value.page is not None
    return tuple(sorted({*pages, value.page})) if good and value.page is not None else pages


def _referenced(value: Value, pages: tuple[int, ...]) -> str:
    return f"{value.value} (p. {prompts.page_range(pages)})" if pages else str(value.value)
