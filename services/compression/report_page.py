"""The pieces of a report: a page in one file, tables that scroll by themselves, charts inside the page."""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from services.artifacts.pages import STYLE
from services.compression.about import Origin
from services.compression.report_words import shares, size

OWN_STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
TEXT = 2000  #: characters that are shown of one text
CHART_BYTES = 4 * 1024**2  #: a chart is some 50 KB; a larger one stays out of the page
_PNG = b"\x89PNG\r\n\x1a\n"

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}</main>
</body>
</html>
"""


class Cell(NamedTuple):
    """A field of a table; `kind` is its class: number, marked, ok, flagged."""

    text: str
    kind: str = ""


def page(title: str, parts: Iterable[str]) -> bytes:
    """A whole page in UTF-8, without scripts or anything from elsewhere. `parts` are HTML, `title` is text."""
    return _PAGE.format(title=text(title), style=STYLE + OWN_STYLE, body="".join(parts)).encode()


def text(told: str) -> str:
    """Text as HTML, cut off where it is very long."""
    return escape(told if len(told) <= TEXT else f"{told[:TEXT]} …")


def heading(told: str) -> str:
    """A section's heading."""
    return f"<h2>{text(told)}</h2>\n"


def note(told: str) -> str:
    """A sentence beside the matter."""
    return f'<p class="note">{text(told)}</p>\n'


def items(told: Iterable[str]) -> str:
    """A list of sentences; nothing where there are none."""
    rows = "".join(f"<li>{text(each)}</li>" for each in told)
    return f"<ul>{rows}</ul>\n" if rows else ""


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and what they stand for."""
    return "<dl>\n" + "".join(f"<dt>{text(name)}</dt><dd>{text(told)}</dd>\n" for name, told in pairs) + "</dl>\n"


def verdict(headline: str, reasons: Iterable[str] = (), *, kind: str = "") -> str:
    """What the page comes to, on top of it; `kind` is ok, error or nothing."""
    return f'<div class="verdict {kind}"><strong>{text(headline)}</strong>{items(reasons)}</div>\n'


def table(name: str, heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table that scrolls sideways on narrow screens, its first column in place; columns after it are figures."""
    first, *others = (text(head) for head in heads)
    top = f'<th scope="col">{first}</th>' + "".join(f'<th scope="col" class="number">{head}</th>' for head in others)
    body = "".join(_row(row) for row in rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text(name)}"><table>\n'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def origins(data: Sequence[Origin]) -> str:
    """Where texts came from, with the sha256 of what was read; nothing where nobody says."""
    part = shares(data)
    rows = (
        f'<li>{text(each.name)}{_beside(each, part)}<br><span class="sha">sha256 {text(each.sha256)}</span></li>\n'
        for each in data
    )
    return f"<ul>\n{''.join(rows)}</ul>\n" if data else ""


def charts(found: Mapping[str, bytes]) -> Iterator[str]:
    """Charts as parts of the page; what is no PNG, or too large, is named alone."""
    for name, data in found.items():
        said = _caption(name)
        if data.startswith(_PNG) and len(data) <= CHART_BYTES:
            inside = f"data:image/png;base64,{b64encode(data).decode()}"
            yield f'<figure><img src="{inside}" alt="{text(said)}"><figcaption>{text(said)}</figcaption></figure>\n'
        else:
            yield note(f"The chart {name} is not shown here.")


def _row(row: Sequence[Cell]) -> str:
    first, *others = row
    kind = f' class="{first.kind}"' if first.kind else ""
    cells = "".join(f'<td class="{each.kind or "number"}">{text(each.text)}</td>' for each in others)
    return f'<tr><th scope="row"{kind}>{text(first.text).replace(".", ".<wbr>")}</th>{cells}</tr>\n'


def _beside(each: Origin, part: Mapping[str, str]) -> str:
    told = [size(each.bytes)] if each.bytes is not None else []
    if each.name in part:
        told.append(f"weight {each.weight:g}, {part[each.name]}")
    return text(f" · {' · '.join(told)}") if told else ""


def _caption(name: str) -> str:
    """`evaluation/kl_by-position.png` → `Kl by position`."""
    words = re.sub(r"[_\-]+", " ", PurePosixPath(name).stem).strip()
    return words[:1].upper() + words[1:]
