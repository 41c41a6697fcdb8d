"""What an operation is to the pipeline: a prompt for each part of a document, and what its answers make together."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from services.documents import answers, prompts, terms
from services.documents.answers import NotJson
from services.documents.evidence import Source, supports
from shared.contracts.documents import Flag, Pack, Value


@dataclass(frozen=True)
class Terms:
    """A pack, and how many characters of its dictionary a prompt may hold."""

    pack: Pack | None
    budget: int

    def hint(self, fields: Sequence[str]) -> str:
        """What a prompt says of the dictionary, terms of these fields first."""
        return terms.hint(self.pack, fields, budget=self.budget)


@dataclass(frozen=True)
class Part:
    """A chunk of a document with its pages' pieces. `number` counts from 1."""

    number: int
    pieces: tuple[tuple[int, str], ...]  #: page number and text
    filename: str = ""

    @property
    def pages(self) -> tuple[int, ...]:
        """Numbers of its pages."""
        return tuple(dict.fromkeys(number for number, _ in self.pieces))


@dataclass(frozen=True)
class Reading:
    """What one answer says. Problems are sentences that the model is told when it is asked again."""

    values: tuple[Value, ...] = ()
    said: Any = None
    flags: tuple[Flag, ...] = ()  #: of the answer as a whole
    problems: tuple[str, ...] = ()

    @property
    def lost(self) -> bool:
        """Whether there is nothing in it."""
        return Flag.NOT_JSON in self.flags or (Flag.CUT_OFF in self.flags and self.said is None)

    def better_than(self, other: "Reading") -> bool:
        """Whether it is to be kept, and not the answer before it."""
        return (self.lost, len(self.problems)) <= (other.lost, len(other.problems))


@dataclass(frozen=True)
class Merged:
    """What the answers for all parts of a document make together."""

    result: Any
    values: tuple[Value, ...] = ()
    flags: tuple[Flag, ...] = ()


class Task(Protocol):
    """An operation of one document set."""

    schema: dict[str, Any] | None  #: of an answer; None: it is free text

    def prompt(self, part: Part) -> str:
        """What is asked about a part."""
        ...

    def read(self, said: Any, part: Part, source: Source) -> Reading:
        """What an answer (JSON, or text) says about a part, and what is wrong with it."""
        ...

    def merge(self, readings: Sequence[tuple[Part, Reading]]) -> Merged:
        """The result for the document, from the answers that there are."""
        ...


def understand(task: Task, text: str, *, cut_off: bool, part: Part, source: Source) -> Reading:
    """The reading of an answer's text. One that was cut off is read as far as it is whole JSON."""
    if task.schema is None:
        flags = (Flag.CUT_OFF,) if cut_off else ()
        problems = ("it was cut off before its end: be shorter",) if cut_off else ()
        return Reading(said=text, flags=flags, problems=problems)
    try:
        said = answers.parse(text)
    except NotJson as error:
        if cut_off:
            problem = "it was cut off before its end: be shorter, with shorter quotes"
            return Reading(flags=(Flag.CUT_OFF,), problems=(problem,))
        return Reading(flags=(Flag.NOT_JSON,), problems=(f"it is not JSON: {error}",))
    return task.read(said, part, source)


def evidence(
    value: Value, part: Part, source: Source, *, shown: Callable[[Any, str], bool] = supports
) -> tuple[Value, str | None]:
    """A value with the page that its quote is really on, its flags, and what the model is told about it.

    `shown` says whether a quote shows a value.
    """
    if value.value is None:
        return value.model_copy(update={"page": None, "quote": None}), None
    if value.quote is None or not value.quote.strip():
        return _flagged(value, Flag.NO_QUOTE), f"{value.path}: a quote is missing"
    claimed = () if value.page is None else (value.page,)
    page = source.find(value.quote, near=(*claimed, *part.pages))
    if page is None and prompts.MARK.search(value.quote):  # it was copied over the end of a page
        value = value.model_copy(update={"quote": prompts.MARK.sub(" ", value.quote).strip()})
        page = source.find(value.quote or "", near=(*claimed, *part.pages))
    if page is None:
        there = value.page if value.page in source else None
        problem = f"{value.path}: the quote {shortened(value.quote or '')} does not occur in the text"
        return _flagged(value, Flag.QUOTE_NOT_FOUND, page=there), problem
    if not shown(value.value, value.quote or ""):
        problem = f"{value.path}: the quote {shortened(value.quote or '')} does not show {value.value}"
        return _flagged(value, Flag.UNSUPPORTED, page=page), problem
    return value.model_copy(update={"page": page}), None


def cell(given: Any, path: str, *, name: str = "value") -> Value:
    """A value of an answer with its page and its quote, as far as it has them. Nothing is checked yet."""
    if not isinstance(given, dict) or name not in given:
        return Value(path=path, value=given)
    page, quote = given.get("page"), given.get("quote")
    if isinstance(page, str) and page.strip().isdigit() and len(page.strip()) < 8:
        page = int(page)
    whole = isinstance(page, int) and not isinstance(page, bool)
    return Value(
        path=path,
        value=given[name],
        page=page if whole else None,
        quote=quote.strip() if isinstance(quote, str) and quote.strip() else None,
    )


def flags_of(groups: Iterable[Iterable[Flag]]) -> tuple[Flag, ...]:
    """All flags that occur, each once, in the order in which `Flag` names them."""
    found = {flag for group in groups for flag in group}
    return tuple(flag for flag in Flag if flag in found)


def shortened(text: str) -> str:
    """A text in quotation marks, not too long to be told."""
    return f'"{text}"' if len(text) <= 80 else f'"{text[:77]}…"'


def marked(part: Part) -> str:
    """A part's text with marks of its pages."""
    return prompts.marked(part.pieces)


def _flagged(value: Value, flag: Flag, **changes: Any) -> Value:
    return value.model_copy(update={"flags": (*value.flags, flag), **changes})
