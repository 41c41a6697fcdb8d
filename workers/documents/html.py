"""HTML as a reader sees it: block elements are lines, a table's row is a line with its cells parted by tabs.

Scripts, styles, templates, comments and what is hidden (the attribute, display:none, visibility:hidden) are left out.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lxml import etree
from lxml.html import HTMLParser, document_fromstring

from workers.documents.cleaning import clean, tidy
from workers.documents.refusals import bomb
from workers.documents.text import decoded
from workers.documents.types import Page

_SKIPPED: Final = frozenset((
    "head", "script", "style", "template", "noscript", "iframe", "object", "svg", "canvas", "audio", "video",
))  # fmt: skip
_LINES: Final = frozenset((
    "address", "article", "aside", "body", "caption", "dd", "details", "dialog", "div", "dt", "fieldset", "figcaption",
    "figure", "footer", "form", "header", "hr", "legend", "li", "main", "nav", "option", "section", "summary", "tr",
))  # fmt: skip
_PARAGRAPHS: Final = frozenset((
    "blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "table", "ul",
))  # fmt: skip
_HIDDEN: Final = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_META: Final = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([a-zA-Z0-9_:.-]{2,40})", re.IGNORECASE)
_WHITE: Final = re.compile(r"[ \t\n\r]+")
_LINE, _PARAGRAPH = "\x01", "\x02"  # where lines and paragraphs end; `clean` left none of these in the text
_ENDS: Final = re.compile(r"[ \n]*[\x01\x02][ \n\x01\x02]*")
_PLAIN: Final = frozenset(("utf-8", "ascii", "iso8859-1"))  # what `decoded` tells apart; browsers read the last as 1252
_SEEN: Final = 1024  # bytes in which a document has to declare its encoding (HTML, 4.2.5.4)


def read(path: Path) -> Iterator[Page]:
    """The pages: form feeds in the text part them.

    Raises:
        Refused: nested deeper than the parser goes (2,048 elements).
    """
    # Entities of HTML are a fixed list, so that a huge tree costs memory alone, which is limited.
    parser = HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    content = clean(_decoded(path.read_bytes()))
    if not content.strip():
        return
    try:
        root = document_fromstring(content.encode(), parser=parser)
    except etree.ParserError:  # nothing but comments
        return
    if parser.error_log.filter_from_fatals():
        raise bomb("its elements are nested too deep.")
    for number, text in enumerate("".join(_pieces(root)).split("\f"), start=1):
        yield Page(number, tidy(_ENDS.sub(_end, text)))


def _end(found: re.Match[str]) -> str:
    return "\n\n" if _PARAGRAPH in found[0] else "\n"


def _decoded(content: bytes) -> str:
    """By byte order mark, declaration, UTF-8, Windows-1252, in this order."""
    declared = _META.search(content[:_SEEN])
    if declared and not content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            codec = codecs.lookup(declared[1].decode())
        except LookupError:
            return decoded(content)
        plain = codec.name in _PLAIN or codec.name.startswith("utf-16")  # a page in UTF-16 cannot say so in ASCII
        if codec._is_text_encoding and not plain:  # noqa: SLF001 - bytes.decode asks the same
            return content.decode(codec.name, "replace")
    return decoded(content)


def _pieces(root: etree._Element) -> Iterator[str]:
    """Text and line ends in document order; white space is folded everywhere but in `pre`."""
    verbatim = 0
    steps = etree.iterwalk(root, events=("start", "end"))
    for event, element in steps:
        tag = element.tag
        if event == "start" and (tag in _SKIPPED or _hidden(element)):
            steps.skip_subtree()
        elif event == "start":
            verbatim += tag == "pre"
            yield _before(tag)
            yield _folded(element.text, verbatim=verbatim > 0)
            continue
        else:
            verbatim -= tag == "pre" and not _hidden(element)
            yield _after(tag) if tag not in _SKIPPED and not _hidden(element) else ""
            yield _folded(element.tail, verbatim=verbatim > 0)


def _before(tag: str) -> str:
    if tag in _PARAGRAPHS:
        return _PARAGRAPH
    return _LINE if tag in _LINES else ""


def _after(tag: str) -> str:
    return {"td": "\t", "th": "\t", "br": "\n"}.get(tag) or _before(tag)


def _folded(text: str | None, *, verbatim: bool) -> str:
    return "" if not text else text if verbatim else _WHITE.sub(" ", text)


def _hidden(element: etree._Element) -> bool:
    return "hidden" in element.attrib or bool(_HIDDEN.search(element.get("style", "")))
