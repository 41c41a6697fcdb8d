"""Numbers as documents write them: `€ 12.4 million`, `(1,234)`, `12,5 Mio.`, `1.234.567,89 EUR`, `45 %`.

A text is a number only when all of it is one: a sign or accounting parentheses, digits, one word of scale, one
unit. Which mark is the decimal one is decided so:

- two kinds of marks: the last is the decimal mark, the others stand before groups of three digits;
- one mark that occurs twice or more stands before groups of three;
- one mark, once, not followed by three digits: it is the decimal mark;
- one mark, once, followed by three digits: `1,234` is 1234 and `0.123` a fraction; `1.234` is not read, because it
  is 1.234 in one country and 1234 in another. A word of scale decides both: `1.234 million` is English,
  `1.234 Mio.` is not.

A percentage keeps its number: `45 %` is 45. Groups of two (`1,23,456`) are not read. Scales that stand elsewhere
("in thousands" above a table) are not known.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal

from services.documents.spelling import plain, same

LONGEST = 64  #: characters; no number is longer
PERCENT = "%"

#: word → (factor, its language writes the decimal mark as a comma)
SCALES: dict[str, tuple[int, bool]] = {
    **dict.fromkeys(("thousand", "k"), (10**3, False)),
    **dict.fromkeys(("million", "millions", "mn", "mm", "m"), (10**6, False)),
    **dict.fromkeys(("billion", "billions", "bn", "b"), (10**9, False)),
    **dict.fromkeys(("trillion", "trillions", "tn"), (10**12, False)),
    **dict.fromkeys(("tausend", "tsd", "tsd.", "t", "mille", "milliers", "bin"), (10**3, True)),
    **dict.fromkeys(("mio", "mio.", "millionen", "milyon", "mn.", "mill."), (10**6, True)),
    **dict.fromkeys(("mrd", "mrd.", "md", "mds", "milliard", "milliards", "milyar"), (10**9, True)),
    **dict.fromkeys(("milliarde", "milliarden"), (10**9, True)),
    **dict.fromkeys(("billionen", "trilyon"), (10**12, True)),
}  # fmt: skip
#: currencies whose sign or code may stand at any number
CURRENCIES = frozenset(
    {"$", "€", "£", "¥", "₺", "₹", "₩", "us$", "a$", "c$", "fr.", "tl", "usd", "eur", "gbp", "jpy", "try", "chf", "cny"}
    | {"inr", "krw", "aud", "cad", "sek", "nok", "dkk", "pln", "czk", "huf", "brl", "zar"}
)

_SIGNED = re.compile(r"(?P<left>\()?(?P<minus>[-+−–])?(?P<text>.+?)(?P<after>[-−])?(?P<right>\))?")
_PARTS = re.compile(r"(?P<before>[^\d]*?)(?P<minus>[-−–])?\s*(?P<digits>\d(?:[\d.,'’ ]*\d)?)\s*(?P<behind>[^\d]*)")


@dataclass(frozen=True)
class Quantity:
    """A number, and the unit that stood at it, as it was written; empty when there was none."""

    number: Decimal
    unit: str = ""


def parse(text: str, *, units: Collection[str] = ()) -> Quantity | None:
    """The quantity that all of a text is. `units` may stand at it beside currencies and `%`."""
    text = " ".join(text.split())
    signed = _SIGNED.fullmatch(text) if 0 < len(text) <= LONGEST else None
    if signed is None or (signed["left"] is None) != (signed["right"] is None):
        return None
    parts = _PARTS.fullmatch(signed["text"].strip())
    if parts is None:
        return None
    signs = [
        sign for sign in (signed["left"], signed["minus"], signed["after"], parts["minus"]) if sign and sign != "+"
    ]
    unit = _unit(parts["before"].strip(), parts["behind"].strip(), units)
    if len(signs) > 1 or unit is None:
        return None
    scale, comma, named = unit
    number = _number(parts["digits"], comma=comma)
    if number is None:
        return None
    return Quantity((-number if signs else number) * scale, named)


def _unit(before: str, behind: str, units: Collection[str]) -> tuple[int, bool | None, str] | None:
    """(factor, decimal comma, unit) of the words around a number; None when they are other words."""
    known = CURRENCIES | {PERCENT} | {same(unit) for unit in units}
    if before and same(before) not in known:
        return None
    if same(behind) in known:  # before a scale is looked for: "t" is a unit where a rule says so
        return None if before else (1, None, behind)
    word, _, rest = behind.partition(" ")
    scale = SCALES.get(plain(word))
    unit = rest if scale else behind
    if unit and (before or same(unit) not in known):
        return None
    factor, comma = scale or (1, None)
    return factor, comma, unit or before


def _number(digits: str, *, comma: bool | None) -> Decimal | None:
    digits = digits.replace("’", "'")
    marks = [mark for mark in digits if not mark.isdigit()]
    kinds = list(dict.fromkeys(marks))
    if not marks:
        return Decimal(digits)
    if len(kinds) > 2 or (len(kinds) == 2 and (marks.count(marks[-1]) > 1 or marks[-1] not in ".,")):
        return None
    if len(kinds) == 1 and _groups(marks, digits, comma=comma):
        return _grouped(digits, kinds[0])
    whole, _, fraction = digits.rpartition(marks[-1])
    unclear = marks[-1] == "." and len(fraction) == 3 and comma is None and len(kinds) == 1 and whole != "0"
    if marks[-1] not in ".," or unclear:
        return None
    left = _grouped(whole, kinds[0]) if len(kinds) == 2 else Decimal(whole)
    return None if left is None else Decimal(f"{left}.{fraction}")


def _groups(marks: list[str], digits: str, *, comma: bool | None) -> bool:
    """Whether the only kind of mark stands before groups of three."""
    mark = marks[0]
    if len(marks) > 1 or mark not in ".,":
        return True
    whole, _, last = digits.rpartition(mark)
    if len(last) != 3 or whole == "0":
        return False
    return mark == "," if comma is None else (mark == ".") == comma


def _grouped(digits: str, mark: str) -> Decimal | None:
    first, *others = digits.split(mark)
    right = 1 <= len(first) <= 3 and first[0] != "0" and all(len(group) == 3 for group in others)
    return Decimal("".join((first, *others))) if right else None
