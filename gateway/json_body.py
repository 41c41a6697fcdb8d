"""JSON as we accept it: UTF-8, unique keys, finite numbers of at most 64 bits, valid text, at most 32 levels.

What passes here can be stored as `jsonb` and read back the same, up to NUL, which the contracts refuse by field.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from gateway.errors import InvalidJson
from shared.errors import InvalidField

DEPTH = 32
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # an escaped surrogate; paired or not is for the walk to see
_INT64 = range(-(2**63), 2**64)  # what our JSON writer can spell


def parse(body: bytes) -> Any:
    """The value that `body` spells.

    Raises:
        InvalidJson: not JSON, not UTF-8, nested too deeply, or an object names a key twice.
        InvalidField: a number or a text that JSON can spell and nobody can store; `param` is its path.
    """
    try:
        value = json.loads(body.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise InvalidJson("The body is not UTF-8.") from error
    except json.JSONDecodeError as error:
        raise InvalidJson(f"The body is not JSON (at character {error.pos}: {error.msg}).") from error
    except RecursionError as error:
        raise InvalidJson(f"The body is nested more than {DEPTH} levels deep.") from error
    except ValueError as error:  # an integer of thousands of digits
        raise InvalidJson("The body holds a number that is too long.") from error
    _check(value, (), halves=_HALF.search(body) is not None)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidJson("An object names a key twice.", param=twice[:64])
    return made


def _check(value: Any, path: tuple[str | int, ...], *, halves: bool) -> None:
    """Walk the value; `halves` says that some text may hold half of a surrogate pair."""
    if isinstance(value, dict | list):
        _check_inside(value, path, halves=halves)
    elif isinstance(value, str):
        if halves and not _is_text(value):
            raise InvalidField("must be valid Unicode (a lone surrogate was found)", param=_spelled(path))
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidField("must be a finite number", param=_spelled(path))
    elif isinstance(value, int) and value not in _INT64:
        raise InvalidField("must fit into 64 bits", param=_spelled(path))


def _check_inside(value: dict[str, Any] | list[Any], path: tuple[str | int, ...], *, halves: bool) -> None:
    if len(path) == DEPTH:
        raise InvalidJson(f"The body is nested more than {DEPTH} levels deep.")
    items: Iterable[tuple[str | int, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if halves and isinstance(key, str) and not _is_text(key):
            raise InvalidField("has a key that is not valid Unicode", param=_spelled(path))
        _check(item, (*path, key), halves=halves)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _spelled(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path)) or "body"
