"""Regular expressions that other people wrote, matched in linear time.

Python's own `re` backtracks: `(a+)+b` takes years on forty letters, and nothing interrupts it. RE2 reads a text once
whatever the expression is, at the price of look-around and back-references, which it refuses. It comes with Arrow,
which the tables need anyway; Arrow (50 MB) is loaded only when a pack has a pattern.
"""

from collections.abc import Sequence

TEXT = 10_000  #: characters; a longer value is not tested


class BadPattern(ValueError):
    """RE2 does not know this expression; the message says what is wrong."""


def check(pattern: str) -> None:
    """Make sure that a pattern can be used.

    Raises:
        BadPattern: it is no regular expression, or it has look-around or back-references.
    """
    _search(pattern, "")  # alone first: `a)|(b` must not become one by what `matches` puts around it


def matches(pattern: str, text: str) -> bool:
    """Whether all of a text matches."""
    return _search(rf"\A(?:{pattern})\z", text)


def beginnings(pattern: str, texts: Sequence[str]) -> list[bool]:
    """For each text, whether it begins with a match.

    Raises:
        BadPattern: as `check`.
    """
    check(pattern)
    return _searched(rf"\A(?:{pattern})", texts)


def _search(pattern: str, text: str) -> bool:
    return _searched(pattern, [text])[0]


def _searched(pattern: str, texts: Sequence[str]) -> list[bool]:
    import pyarrow as pa  # noqa: PLC0415 — see above
    import pyarrow.compute as pc  # noqa: PLC0415

    try:
        found: list[bool] = pc.match_substring_regex(pa.array(texts, pa.string()), pattern).to_pylist()
    except pa.ArrowInvalid as error:
        raise BadPattern(str(error).removeprefix("Invalid regular expression: ")) from error
    return found
