"""Text as every format hands it over: NFC, lines that end in LF, no control characters."""

import re
import unicodedata
from typing import Final

#: C0 without tab, LF and FF; DEL and C1; soft hyphens, zero-width no-break spaces (BOM), lone surrogates
_DROPPED: Final = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\ufeff\ufffe\uffff\ud800-\udfff]")
_LINE_ENDS: Final = re.compile("\r\n?|[\x85\u2028\u2029]")
_LIGATURES: Final = str.maketrans({
    "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\ufb05": "st", "\ufb06": "st",
})  # fmt: skip
_TRAILING: Final = re.compile(r"[ \t]+(?=\n)")
_BLANK: Final = re.compile(r"\n{3,}")
#: pdfium's mark of a hyphen at the end of a line, between letters
_HYPHEN: Final = "\x02"
_BROKEN: Final = re.compile(rf"([^\W\d_]+){_HYPHEN}([^\W\d_]+)")
_WORD: Final = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


def clean(text: str) -> str:
    """Characters a prompt can do with, in Unicode's composed form."""
    return unicodedata.normalize("NFC", _DROPPED.sub("", _LINE_ENDS.sub("\n", text)))


def tidy(text: str) -> str:
    """`clean`, without blanks at the ends of lines and more than one empty line in a row."""
    return _BLANK.sub("\n\n", _TRAILING.sub("", clean(text))).strip()


def paged(text: str) -> list[str]:
    """The pages of a text: form feeds part them."""
    return clean(text).split("\f")


def of_pdf(text: str) -> str:
    """A PDF's page: ligatures spelled out, words that a line end broke put together.

    "exam-/ple" becomes "example" unless "ple" stands on the page as a word of its own, or "exam-ple" does; after such
    a word, and before a capital, the hyphen stays: "well-/known" next to "known", "Anglo-/Saxon".
    """
    if _HYPHEN in text:
        words = set(_WORD.findall(_BROKEN.sub(" ", text)))
        text = _BROKEN.sub(lambda found: _joined(found[1], found[2], words), text).replace(_HYPHEN, "-")
    return tidy(text.replace("\f", "\n").translate(_LIGATURES))


def _joined(left: str, right: str, words: set[str]) -> str:
    whole = left + right
    if whole in words:
        return whole
    broken = right[0].islower() and f"{left}-{right}" not in words and right not in words
    return whole if broken else f"{left}-{right}"
