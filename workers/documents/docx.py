"""DOCX: the body in its order. Paragraphs are parted by empty lines; a table's row is a line, its cells parted by tabs.

Pages end at explicit page breaks, at sections that begin a new page, and where Word last broke the page when it saved.
Footnotes and endnotes follow their page's text. Headers, footers, comments, deleted and hidden text, and the numbers
of lists are left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import docx
from docx.document import Document
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.oxml import parse_xml
from docx.oxml.ns import qn
from lxml import etree

from workers.documents.cleaning import tidy
from workers.documents.refusals import damaged
from workers.documents.types import Page

_FALLBACK: Final = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_MATH: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_SKIPPED: Final = {
    _FALLBACK, qn("w:del"), qn("w:moveFrom"), qn("w:pPr"), qn("w:tblPr"), qn("w:sectPr"), qn("w:sdtPr"), qn("w:rt"),
}  # fmt: skip
_MARKS: Final = {qn("w:tab"): "\t", qn("w:ptab"): "\t", qn("w:cr"): "\n", qn("w:noBreakHyphen"): "-"}
_NOTES: Final = {
    qn("w:footnoteReference"): RELATIONSHIP_TYPE.FOOTNOTES,
    qn("w:endnoteReference"): RELATIONSHIP_TYPE.ENDNOTES,
}
_OFF: Final = {"0", "false", "off"}


def read(path: Path) -> Iterator[Page]:
    """The pages.

    Raises:
        Refused: damaged.
    """
    try:
        document = docx.Document(str(path))
        yield from _Walk(document).pages()
    except (KeyError, ValueError, AttributeError, etree.XMLSyntaxError) as error:
        raise damaged(f"It is no complete Word document ({type(error).__name__}).") from error


class _Walk:
    """One pass over the elements of the body, in document order."""

    def __init__(self, document: Document) -> None:
        self._body = document.element.body
        self._notes = {tag: _notes(document, kind) for tag, kind in _NOTES.items()}
        self._texts: list[list[str]] = [[]]  # what is being filled: the page, in it a cell, in it a cell …
        self._rows: list[list[str]] = []
        self._below: list[str] = []  # notes of this page
        self._after = False  # a page ends with this paragraph or row
        self._fresh = True  # nothing was written since the last break
        self._ended: list[str] = []  # pages that are complete

    def pages(self) -> Iterator[Page]:
        for number, text in enumerate(self._all(), start=1):
            yield Page(number, text)

    def _all(self) -> Iterator[str]:
        steps = etree.iterwalk(self._body, events=("start", "end"))
        for event, element in steps:
            if not isinstance(element.tag, str):
                continue
            if event == "end":
                self._end(element)
            elif element.tag in _SKIPPED or _hidden(element):
                if element.tag == qn("w:pPr"):
                    self._paragraph_begins(element)
                steps.skip_subtree()
            else:
                self._start(element)
            yield from self._ended
            self._ended.clear()
        self._break()
        yield from self._ended

    def _start(self, element: etree._Element) -> None:
        tag = element.tag
        if tag in {qn("w:t"), _MATH}:
            self._write(element.text or "")
        elif tag in _MARKS:
            self._write(_MARKS[tag])
        elif tag == qn("w:br"):
            if element.get(qn("w:type")) == "page":
                self._page_ends()
            else:
                self._write("\n")
        elif tag == qn("w:lastRenderedPageBreak"):
            if not self._fresh:  # Word leaves one behind an explicit break as well
                self._page_ends()
        elif tag == qn("w:tr"):
            self._rows.append([])
        elif tag == qn("w:tc"):
            self._texts.append([])
        elif tag in self._notes:
            self._below.append(self._notes[tag].get(element.get(qn("w:id"), ""), ""))

    def _end(self, element: etree._Element) -> None:
        if element.tag == qn("w:p"):
            self._texts[-1].append("\n\n")
        elif element.tag == qn("w:tc") and len(self._texts) > 1 and self._rows:
            self._rows[-1].append(" ".join("".join(self._texts.pop()).split()))
        elif element.tag == qn("w:tr") and self._rows:
            self._texts[-1].append("\t".join(self._rows.pop()) + "\n")
        elif element.tag == qn("w:tbl"):
            self._texts[-1].append("\n")
        if self._after and not self._rows and element.tag in {qn("w:p"), qn("w:tr")}:
            self._break()

    def _write(self, text: str) -> None:
        self._texts[-1].append(text)
        self._fresh = self._fresh and not text.strip()

    def _paragraph_begins(self, properties: etree._Element) -> None:
        before = properties.find(qn("w:pageBreakBefore"))
        if before is not None and before.get(qn("w:val")) not in _OFF and not self._fresh:
            self._page_ends()
        section = properties.find(qn("w:sectPr"))
        if section is not None:
            kind = section.find(qn("w:type"))
            self._after = kind is None or kind.get(qn("w:val")) not in {"continuous", "nextColumn"}

    def _page_ends(self) -> None:
        """Here, or after the row that the break stands in."""
        if self._rows:
            self._after = True
        else:
            self._break()

    def _break(self) -> None:
        notes = "".join(f"\n\n{note}" for note in self._below if note)
        self._ended.append(tidy("".join(self._texts[0]) + notes))
        self._texts[0].clear()
        self._below.clear()
        self._after, self._fresh = False, True


def _hidden(element: etree._Element) -> bool:
    """Whether a run is formatted as hidden text."""
    if element.tag != qn("w:r"):
        return False
    vanish = element.find(f"{qn('w:rPr')}/{qn('w:vanish')}")
    return vanish is not None and vanish.get(qn("w:val")) not in _OFF


def _notes(document: Document, kind: str) -> dict[str, str]:
    """Footnotes or endnotes by id."""
    for relation in document.part.rels.values():
        if relation.reltype == kind and not relation.is_external:
            notes = parse_xml(relation.target_part.blob)
            return {note.get(qn("w:id"), ""): _words(note) for note in notes}
    return {}


def _words(note: etree._Element) -> str:
    return " ".join("".join(text.text or "" for text in note.iter(qn("w:t"))).split())
