"""The `document_set` kind: files in, a checked table out. What its parts hand to one another."""

import string
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from shared.contracts.jobs import Contract, Name, Text

FILES = 10_000  #: of one set
SET_FILES = 8  #: files of one child job
LABELS = 200
TEMPLATE = 32_768  #: characters
TERMS = 5_000
RULES = 200
SCHEMA_BYTES = 32 * 1024

LabelName = Annotated[Text, Field(min_length=1, max_length=128)]
Instructions = Annotated[Text, Field(max_length=TEMPLATE)]


def _shape(given: object) -> str:
    """Which of a name and an object this is: an error then names one field, not what each of both lacks."""
    return "name" if given is None or isinstance(given, str) else "object"


class Extract(Contract):
    """Fill the fields of a JSON schema, each with its page and a quote."""

    type: Literal["extract"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = Field(
        description="JSON schema of an object: properties that are strings, numbers, integers, booleans, enums, or"
        " lists or objects of these"
    )
    instructions: Instructions | None = None


class Summarize(Contract):
    """Summarise chunks, then the summaries; every sentence of the result names its pages."""

    type: Literal["summarize"]
    words: int = Field(200, ge=20, le=5000, strict=True, description="length that is asked for")
    instructions: Instructions | None = None


class Label(Contract):
    """One class, with what it means."""

    name: LabelName
    description: Annotated[Text, Field(max_length=2000)] = ""


LabelOrName = Annotated[Annotated[LabelName, Tag("name")] | Annotated[Label, Tag("object")], Discriminator(_shape)]


class Classify(Contract):
    """Choose one label, or with `multi_label` any number of them."""

    type: Literal["classify"]
    labels: Annotated[list[LabelOrName], Field(min_length=2, max_length=LABELS)]
    multi_label: bool = False
    instructions: Instructions | None = None

    @property
    def named(self) -> tuple[Label, ...]:
        """The labels, all with a description."""
        return tuple(each if isinstance(each, Label) else Label(name=each) for each in self.labels)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [each.name for each in self.named]
        if len(set(names)) < len(names):
            msg = "every label is given once"
            raise ValueError(msg)
        return self


class Custom(Contract):
    """A prompt of the caller's own for each chunk."""

    type: Literal["custom"]
    template: Annotated[Text, Field(min_length=1, max_length=TEMPLATE)] = Field(
        description="prompt with {text}; {filename}, {pages} and {chunk} may be used too; {{ and }} are braces"
    )
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = Field(
        None, description="JSON schema that the answer must match; null: free text"
    )

    @model_validator(mode="after")
    def _fields(self) -> Self:
        try:
            used = [name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None]
        except ValueError as error:
            msg = f"template: {error}"
            raise ValueError(msg) from error
        if "text" not in used or not set(used) <= {"text", "filename", "pages", "chunk"}:
            msg = "template needs {text}, and may use {filename}, {pages} and {chunk}"
            raise ValueError(msg)
        return self


Operation = Annotated[Extract | Summarize | Classify | Custom, Field(discriminator="type")]


class Chunking(Contract):
    """How a document is cut. Tokens of the model that answers."""

    tokens: int | None = Field(None, ge=64, strict=True, description="of one chunk; null: what the context leaves")
    overlap: int = Field(64, ge=0, le=4096, strict=True, description="tokens that two neighbours share")


class Term(Contract):
    """An entry of a term dictionary: what a field or a concept is called in documents."""

    name: Name
    aliases: list[Annotated[Text, Field(min_length=1, max_length=256)]] = Field(default_factory=list, max_length=100)
    definition: Annotated[Text, Field(max_length=2000)] = ""
    values: dict[Text, list[Text]] = Field(
        default_factory=dict, description="normal form of a value → its other spellings in documents"
    )


class Rule(Contract):
    """A typed check of results. Exactly the fields of its `check` are given."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    check: Literal["equation", "compare", "unit", "date_range", "pattern", "range"]
    fields: list[Name] = Field(default_factory=list, max_length=100, description="paths of values that it marks")
    expression: Annotated[Text, Field(max_length=1000)] | None = Field(
        None, description='equation, compare: "assets = liabilities + equity", "end_date >= start_date"'
    )
    tolerance: float = Field(0.0, ge=0, description="equation: of the larger side, as a share: 0.01 is one per cent")
    unit: list[Text] | None = Field(None, description="unit: spellings that are allowed; the first is the normal form")
    earliest: Text | None = Field(None, description="date_range: ISO 8601 date")
    latest: Text | None = Field(None, description="date_range: ISO 8601 date")
    minimum: float | None = Field(None, description="range")
    maximum: float | None = Field(None, description="range")
    pattern: Annotated[Text, Field(max_length=500)] | None = Field(None, description="pattern: what the text matches")
    message: Annotated[Text, Field(max_length=500)] = Field("", description="told in the report where it is broken")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        wrong = _unfit(self)
        if wrong is not None:
            raise ValueError(wrong)
        return self


#: check → what it needs, and what it may have besides; `fields` are optional where an expression names values
_ONE_OF: dict[str, tuple[str, ...]] = {
    "equation": ("expression",),
    "compare": ("expression",),
    "unit": ("unit",),
    "date_range": ("earliest", "latest"),
    "pattern": ("pattern",),
    "range": ("minimum", "maximum"),
}


def _unfit(rule: Rule) -> str | None:
    """Why a rule's fields do not fit its check."""
    own = _ONE_OF[rule.check]
    given = {name for names in _ONE_OF.values() for name in names if getattr(rule, name) not in (None, [])}
    given |= {"tolerance"} if rule.tolerance else set()
    if not given & set(own):
        return f"{rule.check} needs {' or '.join(own)}"
    if extra := given - set(own) - ({"tolerance"} if rule.check == "equation" else set()):
        return f"{rule.check} has no {', '.join(sorted(extra))}"
    if not rule.fields and "expression" not in own:
        return f"{rule.check} needs fields"
    return _backwards(rule)


def _backwards(rule: Rule) -> str | None:
    """Why a range holds nothing."""
    for name in ("earliest", "latest"):
        try:
            date.fromisoformat(getattr(rule, name) or "2000-01-01")
        except ValueError:
            return f"{name} is a date, as in 2025-12-31"
    if rule.earliest and rule.latest and date.fromisoformat(rule.earliest) > date.fromisoformat(rule.latest):
        return "earliest is after latest"
    if rule.minimum is not None and rule.maximum is not None and rule.minimum > rule.maximum:
        return "minimum is above maximum"
    return None


class Pack(Contract):
    """Knowledge of a domain: a folder of plain files, or the same inline."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    description: Annotated[Text, Field(max_length=2000)] = ""
    terms: list[Term] = Field(default_factory=list, max_length=TERMS)
    rules: list[Rule] = Field(default_factory=list, max_length=RULES)


PackOrName = Annotated[Annotated[Name, Tag("name")] | Annotated[Pack, Tag("object")], Discriminator(_shape)]


class DocumentSetSpec(Contract):
    """Read documents with a model. Each file becomes one record of `results.jsonl`."""

    model: Name
    files: Annotated[list[Text], Field(min_length=1, max_length=FILES)] = Field(description="ids of uploaded files")
    operation: Operation
    pack: PackOrName | None = Field(None, description="name of an installed domain pack, or one inline")
    chunking: Chunking = Chunking()
    max_tokens: int = Field(512, ge=16, le=32_768, strict=True, description="of one answer")
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int | None = Field(None, ge=0, lt=2**63, strict=True)
    guided: bool = Field(True, description="constrain answers to their JSON schema while they are generated")


class DocumentInput(Contract):
    """What `job_items.input` holds of a document: where its content is."""

    file_id: str
    filename: str
    sha256: str
    bytes: int


class Check(StrEnum):
    """What the domain pack's rules found about a value; `violates:<rule>` is spelled out by `violates`."""

    VERIFIED = "verified"  #: at least one rule tested it, and all agree
    UNCHECKED = "unchecked"  #: no rule speaks of it, or one lacks a value it needs


def violates(rule: str) -> str:
    """The mark of a value that breaks a rule."""
    return f"violates:{rule}"


class Flag(StrEnum):
    """What is wrong with a value or an answer after its one repair."""

    NO_QUOTE = "no_quote"  #: no quote was given for it
    QUOTE_NOT_FOUND = "quote_not_found"  #: the quote does not occur in the document
    UNSUPPORTED = "unsupported"  #: the quote occurs, but does not show the number or the date
    INVALID = "invalid"  #: it does not match the schema
    NOT_JSON = "not_json"  #: the answer is not JSON
    CUT_OFF = "cut_off"  #: the answer reached `max_tokens`
    CONFLICT = "conflict"  #: another part of the document says something else
    REFUSED = "refused"  #: the engine refused the request


class Value(Contract):
    """One value of a result, with where it is from. `path` is dotted, list entries by number: `lines.0.amount`."""

    path: str
    value: Any = None
    page: int | None = None
    quote: str | None = None  #: text that occurs on that page, white space aside
    check: str = Check.UNCHECKED.value  #: `verified`, `unchecked` or `violates:<rule>`
    flags: tuple[Flag, ...] = ()
    original: Any = None  #: the value before a term dictionary or a unit normalised it; null: as it is

    @property
    def violating(self) -> bool:
        """Whether it breaks a rule."""
        return self.check.startswith(violates(""))


class DocumentUsage(Contract):
    """Tokens of all calls for one document."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class DocumentResult(Contract):
    """One record: what `job_items.output` and a line of `results.jsonl` hold of a document."""

    file_id: str
    filename: str
    sha256: str
    format: str  #: pdf, docx, xlsx, html, markdown, text
    pages: int
    chunks: int
    result: Any = None  #: extract: the object; summarize, custom: text (or JSON); classify: label(s)
    values: tuple[Value, ...] = ()  #: evidence: a value of the object, a sentence of the summary, a label, a chunk
    flags: tuple[Flag, ...] = ()  #: of the document as a whole
    repaired: int = 0  #: answers that were asked for a second time
    ocr_pages: int = 0
    unread: tuple[int, ...] = ()  #: pages that are pictures without text, which nothing was asked about
    usage: DocumentUsage = DocumentUsage()

    @property
    def all_flags(self) -> list[Flag]:
        """The document's own and its values' flags, each once."""
        return list(dict.fromkeys([*self.flags, *(flag for value in self.values for flag in value.flags)]))

    @property
    def flagged(self) -> bool:
        """Whether a person should look at it."""
        return bool(self.flags) or any(value.flags or value.violating for value in self.values)
