"""Server-sent events on their way from an engine to a caller: bytes, whole events at a time, only usage is parsed.

48 µs of CPU a token is what the whole way may cost, so one read of the socket is one pass here: the model's name is
replaced, the tokens are counted, and the chunk of usage is read, and left out when the caller did not ask for it.
"""

import json
from typing import Any, Final

import orjson

DONE: Final = b"data: [DONE]\n\n"
END: Final = b"\n\n"
_ERROR: Final = b'data: {"error"'
_USAGE: Final = (b'"usage":{', b'"usage": {')
_NO_USAGE: Final = b',"usage":null'  # in every chunk once usage is asked for
_EMPTY_CHOICES: Final = (b'"choices":[]', b'"choices": []')
_EMPTY_CONTENT: Final = (b'"content":""', b'"content": ""')

_decoder = json.JSONDecoder()


class Events:
    """The events of one answer of one engine."""

    def __init__(self, *, served_as: str, name: str, include_usage: bool, keep: bool) -> None:
        self.count = 0  #: chunks so far: a token each, or a few
        self.usage: dict[str, Any] | None = None
        self.done = False  #: `[DONE]` was seen
        self.error: dict[str, Any] | None = None  #: what the engine says went wrong
        self.raw: list[bytes] | None = [] if keep else None
        self._include_usage = include_usage
        self._from, self._to = quoted(served_as), quoted(name)
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Whole events for the caller, out of what the engine sent."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")  # JSON spells its own line ends otherwise
        if not data.endswith(END):
            cut = data.rfind(END) + len(END)
            cut = cut if cut >= len(END) else 0
            data, self._rest = data[:cut], data[cut:]
        if not data:
            return b""
        self.count += data.count(b"data: ")
        self.done = data.endswith(DONE)
        if self.raw is not None:
            self.raw.append(data)
        if _USAGE[0] in data or _USAGE[1] in data or _ERROR in data:
            data = b"".join(map(self._look, data[: -len(END)].split(END)))
        if not self._include_usage:
            data = data.replace(_NO_USAGE, b"")
        return data.replace(self._from, self._to)

    def _look(self, event: bytes) -> bytes:
        """An event that may be the last of its kind; empty when it is not for the caller."""
        if event.startswith(_ERROR):
            self.error = error_of(event.removeprefix(b"data: "))
        elif (usage := usage_of(event)) is not None:
            self.usage = usage
            if not self._include_usage and any(each in event for each in _EMPTY_CHOICES):
                return b""
        return event + END


def only_opens(data: bytes) -> bool:
    """Whether these events say no more than that an assistant is about to speak: no token is in them."""
    return all(
        b'"role"' in event and any(each in event for each in _EMPTY_CONTENT) for event in data.split(END) if event
    )


def quoted(text: str) -> bytes:
    """The text as JSON spells it, quotes included."""
    return orjson.dumps(text)


def usage_of(data: bytes) -> dict[str, Any] | None:
    """The last `usage` object in a body or an event, found without parsing the rest."""
    at = max(data.rfind(each) for each in _USAGE)
    if at < 0:
        return None
    start = data.index(b"{", at)
    try:
        found, _ = _decoder.raw_decode(data[start : start + 4096].decode(errors="replace"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def error_of(body: bytes) -> dict[str, Any]:
    """The `error` object of an answer; empty when it has none."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = told.get("error") if isinstance(told, dict) else None
    return error if isinstance(error, dict) else {}
