"""`report.json` and `report.html`: what became of each document, for programs and for people."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import orjson

from services.artifacts.pages import STYLE
from services.documents.records import Record, Status, Totals
from shared.contracts.documents import DocumentResult, DocumentSetSpec, Value

SECTIONS = 1000  #: documents whose values the page shows; of a larger set, the first that are not ok
ROWS = 500  #: values that it shows of one document
TEXT = 2000  #: characters that it shows of one value, quote or text
MEMORY_BYTES = 1024**2  #: sections that are larger together wait in a file

HEAD, MIDDLE, END = (
    (Path(__file__).parent / "report.html")
    .read_text(encoding="utf-8")
    .replace("<!-- sections -->", "<!-- rows -->")
    .split("<!-- rows -->")
)


@dataclass(frozen=True)
class About:
    """What a report says of its set as a whole."""

    set_id: str
    model: str
    operation: str
    pack: str | None
    rules: Mapping[str, str]  #: name → message, of the pack's rules
    totals: Totals

    @classmethod
    def of(cls, set_id: str, spec: DocumentSetSpec, *, totals: Totals) -> "About":
        """What the set's spec says, as it is stored: with its pack whole."""
        pack = spec.pack
        assert not isinstance(pack, str), pack
        return cls(
            set_id=set_id,
            model=spec.model,
            operation=spec.operation.type,
            pack=pack.name if pack else None,
            rules={rule.name: rule.message for rule in pack.rules} if pack else {},
            totals=totals,
        )


class Json:
    """`report.json`: {"set_id", "model", …, "totals", "documents": [one object a document, a line each]}."""

    name, media_type = "report.json", "application/json"

    def __init__(self, path: Path, about: About) -> None:
        self._file = path.open("wb")
        self._file.write(orjson.dumps(asdict(about))[:-1] + b',"documents":[')
        self._between = b"\n"

    def add(self, record: Record) -> None:
        """Write a document."""
        self._file.write(self._between + orjson.dumps(_described(record)))
        self._between = b",\n"

    def close(self) -> None:
        self._file.write(b"\n]}\n")
        self._file.close()


class Html:
    """`report.html`: one page without scripts or anything from elsewhere; what documents say is escaped."""

    name, media_type = "report.html", "text/html; charset=utf-8"

    def __init__(self, path: Path, about: About) -> None:
        self._about, self._count, self._left = about, 0, SECTIONS
        self._all = about.totals.documents <= SECTIONS
        self._file = path.open("wb")
        self._file.write(Template(HEAD).substitute(self._facts()).encode())
        self._sections = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 — `close` closes it

    def add(self, record: Record) -> None:
        """Write a document's row, and keep its section for the end."""
        self._count += 1
        shown = self._left > 0 and (self._all or record.status is not Status.OK)
        self._file.write("".join(_row(self._count, record, link=shown)).encode())
        if shown:
            self._left -= 1
            self._sections.write("".join(_section(self._count, record, self._about)).encode())

    def close(self) -> None:
        self._file.write(MIDDLE.encode())
        self._sections.seek(0)
        shutil.copyfileobj(self._sections, self._file)
        self._sections.close()
        self._file.write(END.encode())
        self._file.close()

    def _facts(self) -> dict[str, str]:
        totals = asdict(self._about.totals)
        totals |= totals.pop("values")
        note = f"Values are shown of the first {SECTIONS:,} documents that are not ok; the tables have all of them."
        about = {name: _text(getattr(self._about, name) or "none") for name in ("set_id", "model", "operation", "pack")}
        counts = {name: f"{value:,}" for name, value in totals.items()}
        shown = {"cost": f"{totals['cost']:.4f}", "note": "" if self._all else f"<p>{note}</p>", "style": STYLE}
        return about | counts | shown


def _described(record: Record) -> dict[str, Any]:
    """A document in `report.json`."""
    told: dict[str, Any] = {"file_id": record.file_id, "filename": record.filename, "status": record.status}
    if (result := record.result) is None:
        return told | {"error": record.error}
    return told | {
        "format": result.format,
        "pages": result.pages,
        "chunks": result.chunks,
        "flags": result.flags,
        "flagged_values": [{"path": each.path, "flags": each.flags} for each in result.values if each.flags],
        "violations": [{"rule": rule, "path": path} for rule, path in record.broken],
        "values": asdict(record.checks),
        "repaired": result.repaired,
        "ocr_pages": result.ocr_pages,
        "usage": result.usage.model_dump(),
    }


def _row(number: int, record: Record, *, link: bool) -> Iterator[str]:
    result, checks = record.result, record.checks
    name = _text(record.filename)
    named = f'<a href="#d{number}">{name}</a>' if link else name
    yield f'<tr><td class="number">{number}</td><td>{named}</td><td class="{record.status}">{record.status}</td>'
    for count in (result.pages if result else "", checks.verified, checks.violating, checks.unchecked):
        yield f'<td class="number">{count}</td>'
    yield f"<td>{_text(_notes(record))}</td></tr>\n"


def _notes(record: Record) -> str:
    if record.result is None:
        return record.reason or ""
    rules = dict.fromkeys(rule for rule, _ in record.broken)
    return "; ".join(filter(None, (f"breaks {', '.join(rules)}" if rules else "", ", ".join(record.result.all_flags))))


def _section(number: int, record: Record, about: About) -> Iterator[str]:
    yield f'<section id="d{number}">\n<h2>{_text(record.filename)}</h2>\n'
    yield f'<p class="note">{_text(record.file_id)} · <a href="#documents">all documents</a></p>\n'
    if (result := record.result) is None:
        yield f'<p class="error">{_text(record.reason or "")}</p>\n</section>\n'
        return
    if about.operation != "extract":
        yield f'<p class="text">{_text(_said(result.result))}</p>\n'
    for rule in dict.fromkeys(rule for rule, _ in record.broken):
        message = about.rules.get(rule)
        yield f'<p class="violates">{_text(rule)}{": " + _text(message) if message else " is broken"}</p>\n'
    yield from _values(result)
    yield "</section>\n"


def _values(result: DocumentResult) -> Iterator[str]:
    if not result.values:
        return
    heads = "".join(f"<th>{head}</th>" for head in ("Field", "Value", "Page", "Quote", "Check"))
    yield f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n"
    yield from map(_value, result.values[:ROWS])
    yield "</tbody>\n</table>\n"
    if len(result.values) > ROWS:
        yield f'<p class="note">and {len(result.values) - ROWS:,} more</p>\n'


def _value(value: Value) -> str:
    was = "" if value.original is None else f' <span class="note">was {_text(_said(value.original))}</span>'
    flags = f' <span class="flags">{_text(", ".join(value.flags))}</span>' if value.flags else ""
    quote = f"<q>{_text(value.quote)}</q>" if value.quote else ""
    kind = "violates" if value.violating else value.check
    return (
        f"<tr><td>{_text(value.path)}</td><td>{_text(_said(value.value))}{was}</td>"
        f'<td class="number">{"" if value.page is None else value.page}</td><td>{quote}</td>'
        f'<td><span class="{_text(kind)}">{_text(value.check)}</span>{flags}</td></tr>\n'
    )


def _said(value: Any) -> str:
    if value is None:
        return "—"
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _text(text: str) -> str:
    """Text as HTML, cut off where it is very long."""
    return escape(text if len(text) <= TEXT else f"{text[:TEXT]} …")
