"""Dates as documents write them. Own code: a guessing parser makes a date of nearly anything.

Read are ISO 8601 (with a time, which is left out), year first with `/` or `.`, day and month by number, and a
written month in English, German, French or Turkish with its day and its year in either order. Not read, because they
are not one day: two-digit years, a month without a day, and `03/04/2025`, which is March in one country and April in
another. With dots the day comes first everywhere: `03.04.2025` is the third of April.
"""

import re
from datetime import date

from services.documents.spelling import plain

LONGEST = 64  #: characters; no date is longer

_MONTHS = (
    "january jan januar janvier janv ocak oca janner",
    "february feb februar fevrier fevr fev subat sub feber",
    "march mar marz maerz mrz mars mart",
    "april apr avril avr nisan nis",
    "may mai mayis",
    "june jun juni juin haziran haz",
    "july jul juli juillet juil temmuz tem",
    "august aug aout agustos agu",
    "september sept sep septembre eylul eyl",
    "october oct oktober okt octobre ekim eki",
    "november nov novembre kasim kas",
    "december dec dezember dez decembre aralik ara",
)
MONTHS = {word: number for number, names in enumerate(_MONTHS, 1) for word in names.split()}

_ISO = re.compile(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?:[t ]\d{1,2}:\d{2}.*)?")
_NUMBERS = re.compile(r"(\d{1,2})([-/.])\s?(\d{1,2})\2\s?(\d{4})")
_DAY_FIRST = re.compile(r"(\d{1,2})(?:st|nd|rd|th|er|\.)?(?: of)?[ -]([a-z]+)\.?,?[ -](\d{4})")
_MONTH_FIRST = re.compile(r"([a-z]+)\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})")


def parse(text: str) -> date | None:
    """The day that a text names; None when it names none, or when it can be read as two."""
    if len(text) > LONGEST:
        return None
    spelled = plain(text)
    for form, read in ((_ISO, _iso), (_NUMBERS, _numbers), (_DAY_FIRST, _day_first), (_MONTH_FIRST, _month_first)):
        if found := form.fullmatch(spelled):
            return read(found)
    return None


def _iso(found: re.Match[str]) -> date | None:
    return _date(int(found[1]), int(found[3]), int(found[4]))


def _numbers(found: re.Match[str]) -> date | None:
    first, second, year = int(found[1]), int(found[3]), int(found[4])
    if found[2] == "." or first > 12 or first == second:
        return _date(year, second, first)
    return _date(year, first, second) if second > 12 else None


def _day_first(found: re.Match[str]) -> date | None:
    return _date(int(found[3]), MONTHS.get(found[2]), int(found[1]))


def _month_first(found: re.Match[str]) -> date | None:
    return _date(int(found[3]), MONTHS.get(found[1]), int(found[2]))


def _date(year: int, month: int | None, day: int) -> date | None:
    try:
        return None if month is None else date(year, month, day)
    except ValueError:
        return None
