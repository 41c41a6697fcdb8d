"""What an engine answers, as PostgreSQL's jsonb can hold it: neither NUL nor a lone surrogate."""

import json
import re
from typing import Any, Final

import orjson

NOT_STORABLE: Final = re.compile("[\x00\ud800-\udfff]")
#: how they are spelled in JSON's bytes, where neither can stand as it is; pairs that are whole look so too
SUSPICIOUS: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


def told(body: bytes) -> Any | None:
    """The JSON that a body is, with U+FFFD for what cannot be stored; None when it is not JSON."""
    try:
        return storable(orjson.loads(body)) if SUSPICIOUS.search(body) else orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return storable(json.loads(body))  # orjson refuses a lone surrogate
    except (ValueError, RecursionError):
        return None


def storable(value: Any) -> Any:
    """The same with U+FFFD for every character that cannot be stored, at any depth, in keys too."""
    if isinstance(value, str):
        return NOT_STORABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [storable(entry) for entry in value]
    if isinstance(value, dict):
        return {storable(name): storable(entry) for name, entry in value.items()}
    return value
