"""Answers of a model, read as JSON that every part of the platform can keep."""

import json
import math
from typing import Any, Final

LONGEST: Final = 2**63  # orjson and PostgreSQL's bigint end here
DEPTH: Final = 64  #: of lists and objects; schemas are nested at most 8 deep, and orjson gives up at 254


class NotJson(ValueError):
    """The answer is not JSON."""


def parse(text: str) -> Any:
    """The JSON that an answer is, or that stands in it between braces when the model said more than it was asked for.

    Raises:
        NotJson: there is none.
    """
    try:
        return _loads(text)
    except NotJson:
        start, end = text.find("{"), text.rfind("}")
        if not 0 <= start < end:
            raise
        return _loads(text[start : end + 1])


def _loads(text: str) -> Any:
    try:
        found = json.loads(text, parse_int=_int, parse_float=_float, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error
    if not _shallow(found, DEPTH):
        raise NotJson(f"it is nested more than {DEPTH} deep")
    return found


def _shallow(value: Any, left: int) -> bool:
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left >= 0 and all(_shallow(entry, left - 1) for entry in entries)


def _int(digits: str) -> int | float:
    number = int(digits)
    return number if -LONGEST <= number < LONGEST else _float(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise NotJson(f"{digits[:20]} is too large a number")
    return number


def _constant(name: str) -> float:
    raise NotJson(f"{name} is not JSON")
