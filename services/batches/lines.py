"""One line of JSONL as we accept it: an object in UTF-8, finite numbers, text that PostgreSQL can store."""

import json
import re
from typing import Any

import orjson

from shared.contracts.batches import DEPTH

_BOM = b"\xef\xbb\xbf"
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # an escape, not a backslash that is escaped itself
_HALF = re.compile(r"[\ud800-\udfff]")


class Flaw(Exception):
    """What is wrong with a line. Its content is never part of the message."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        self.code = code
        self.message = message
        self.param = param
        super().__init__(message)


def parsed(raw: bytes, *, first: bool = False) -> dict[str, Any]:
    """The object that a line is; `first`: it is the first line of its file.

    Raises:
        Flaw: it is not one, or holds what cannot be stored.
    """
    if first and raw.startswith(_BOM):
        raise Flaw("byte_order_mark", "The file begins with a byte order mark: save it as plain UTF-8.")
    if b"\x00" in raw or (b"\\u0000" in raw and _NUL.search(raw)):
        raise Flaw("nul_character", "The line holds a NUL character, which cannot be stored.")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _reason(raw, str(error)) from None
    if not isinstance(value, dict):
        raise Flaw("invalid_line", "The line is not a JSON object.")
    if raw.count(b"{") + raw.count(b"[") > DEPTH and _too_deep(value):
        raise _deep()
    return value


def _deep() -> Flaw:
    return Flaw("too_deep", f"The line is nested more than {DEPTH} levels deep.")


def _reason(raw: bytes, told: str) -> Flaw:
    """Why a line is not JSON to us, in the terms of whoever wrote it."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return Flaw("invalid_utf8", "The line is not UTF-8.")
    if "depth" in told:
        return _deep()
    try:
        value = json.loads(text)
    except RecursionError:
        return _deep()
    except ValueError:
        return Flaw("invalid_json", "The line is not JSON.")
    if _HALF.search(json.dumps(value, ensure_ascii=False)):
        return Flaw("lone_surrogate", "A text of the line is not valid Unicode: it holds half of a surrogate pair.")
    return Flaw("invalid_number", "A number of the line is NaN, infinite, or too large for 64 bits.")


def _too_deep(value: object) -> bool:
    level: list[object] = [value]
    for _ in range(DEPTH):
        below = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [item for items in below for item in items if isinstance(item, dict | list)]
    return bool(level)
