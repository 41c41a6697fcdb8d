"""Whether a quote occurs in a document, on which page, and whether it shows the value that it stands for.

Compared are folded texts: compatibility forms (NFKC), case, typographic quotes and dashes, hyphens between letters (so
a word that is split at a line's end is whole) and white space aside. White space separates words and numbers;
elsewhere, and between characters of scripts that are written without it, it is left out.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any, Final

from services.documents.quantities import SCALES

_SIGNS: Final = str.maketrans(
    {**dict.fromkeys("‘’‚‛′`´", "'"), **dict.fromkeys("“”„‟″«»", '"'), **dict.fromkeys("‐‑‒–—―−﹣", "-")}
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff")  # soft hyphens and characters without a width
)
_DENSE: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"  # written without blanks
)
_HYPHEN: Final = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")  # between two letters
_BLANKS: Final = re.compile(rf" (?![^\W{_DENSE}])|(?<![^\W{_DENSE}]) ")  # that separate no words

EDGE: Final = 2000  #: characters of the longest quote
PIECE: Final = 100_000  #: characters that are folded at once: some 10 ms

_DIGITS: Final = re.compile(r"\d+")
_NUMBER: Final = re.compile(r"\d(?:[\d.,'’]*\d)?")
_SPACED: Final = re.compile(r"\b\d{1,3}(?:[ \u00a0\u202f\u2009]\d{3})+(?:[.,]\d+)?(?!\d)")
_WORDS: Final = re.compile(r"[^\W\d_]+\.?")
_SPELLED: Final = dict(
    zip(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
        range(13),
        strict=True,
    )
)
_CLOSE: Final = Decimal("1e-9")  # of floats that were written in decimal


def fold(text: str) -> str:
    """The form that equal quotes share."""
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS).casefold()
    return _HYPHEN.sub("", _BLANKS.sub("", " ".join(text.split())))


class Source:
    """The pages of a document, to look quotes up in. Pages are folded when they are first looked at.

    A page is folded in pieces, because nothing else of the process runs while a regular expression reads a text.
    """

    def __init__(self, pages: Mapping[int, str]) -> None:
        self._pages = pages
        self._folded: dict[int, list[str]] = {}
        self._joined: dict[tuple[int, int], str] = {}

    def __contains__(self, page: object) -> bool:
        return page in self._pages

    def find(self, quote: str, *, near: Iterable[int] = ()) -> int | None:
        """The page that a quote is on, of those in `near` first; None when it is nowhere.

        A quote that runs over the end of a page is on the page where it begins. One of more than `EDGE` characters,
        or without a letter or digit, is nowhere.
        """
        wanted = fold(quote) if len(quote) <= EDGE else ""
        if not any(letter.isalnum() for letter in wanted):
            return None
        for page in dict.fromkeys([*(page for page in near if page in self._pages), *self._pages]):
            if any(wanted in piece for piece in self._fold(page)):
                return page
        return next((one for one, two in pairwise(self._pages) if wanted in self._join(one, two)), None)

    def _fold(self, page: int) -> list[str]:
        """A page's pieces; neighbours share what is longer than any quote."""
        if page not in self._folded:
            text = self._pages[page]
            starts = range(0, max(1, len(text) - EDGE), PIECE)
            self._folded[page] = [fold(text[start : start + PIECE + EDGE]) for start in starts]
        return self._folded[page]

    def _join(self, one: int, two: int) -> str:
        """The end of a page and the beginning of the next one."""
        if (one, two) not in self._joined:
            self._joined[one, two] = fold(f"{self._pages[one][-EDGE:]}\n{self._pages[two][:EDGE]}")
        return self._joined[one, two]


def supports(value: Any, quote: str) -> bool:
    """Whether a quote shows a value, where that can be told: of numbers. Signs, separators and units aside.

    `1.2 million` shows 1.2 and 1200000; `12 %` shows 12 and 0.12; whether a mark is a decimal one is not asked.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    wanted = abs(Decimal(str(value)))
    return any(abs(each - wanted) <= _CLOSE * max(each, wanted) for each in _numbers(quote))


def shows_day(value: str, quote: str) -> bool:
    """Whether a quote shows the year and the day of an ISO date; a month may be a word of any language."""
    year, month, day = value.split("-")
    said = {int(digits) for digits in _DIGITS.findall(unicodedata.normalize("NFKC", quote)) if len(digits) < 10}
    whole = int(f"{year}{month}{day}")
    return whole in said or (int(day) in said and not said.isdisjoint({int(year), int(year) % 100}))


def _numbers(quote: str) -> Iterable[Decimal]:
    """Every number that a text can be read to hold."""
    text = unicodedata.normalize("NFKC", quote).casefold()
    words = [word for word in _WORDS.findall(text) if word]
    factors = {Decimal(1)} | {Decimal(SCALES[word][0]) for word in words if word in SCALES}
    if "%" in text or "percent" in text or "per cent" in text:
        factors.add(Decimal("0.01"))
    found = [*_NUMBER.findall(text), *(re.sub(r"\s", "", spaced) for spaced in _SPACED.findall(text))]
    for digits in dict.fromkeys(found):
        for number in _readings(digits):
            yield from (number * factor for factor in factors)
    yield from (Decimal(_SPELLED[word]) for word in words if word in _SPELLED)


def _readings(digits: str) -> set[Decimal]:
    """A number's readings: all marks separate thousands, or the last one is the decimal mark."""
    marks = [at for at, letter in enumerate(digits) if not letter.isdigit()]
    plain = "".join(letter for letter in digits if letter.isdigit())
    spelled = {plain}
    if marks:
        whole = "".join(letter for letter in digits[: marks[-1]] if letter.isdigit())
        spelled.add(f"{whole or 0}.{digits[marks[-1] + 1 :]}")
    try:
        return {Decimal(each) for each in spelled}
    except InvalidOperation:
        return set()
