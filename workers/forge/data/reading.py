"""JSON lines of texts and chats.

A line is `{"text": …}`, `{"messages": [{"role", "content"}, …]}`, or `{"prompt", "completion"}`: two texts, which are
joined as they are, or two lists of messages, which are one chat (the shapes of TRL's dataset formats). Other keys are
let be. Files are UTF-8, with or without a byte-order mark; lines end in LF or CRLF, blank ones are let be.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import orjson

from shared.contracts.forge_orders import Data
from workers.forge.refusing import Refused

SHOWN = 8  #: bad lines that a refusal names
_BOM = b"\xef\xbb\xbf"

T = TypeVar("T")


class Turn(NamedTuple):
    """A message of a chat."""

    role: str
    content: str


Chat = tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """One line: a text, or a chat."""

    content: str | Chat
    source: str  #: `Data.name`
    line: int  #: 1-based

    @property
    def words(self) -> str:
        """What is said, without who says it."""
        return self.content if isinstance(self.content, str) else "\n".join(turn.content for turn in self.content)


class BadLine(Exception):
    """What is wrong with a line."""


def read(data: Data) -> list[Text]:
    """Every text of a file, in its order; none where the file has no lines.

    Raises:
        Refused: `invalid_data`, with the first bad lines by number, and how many there are.
    """
    return [Text(content, data.name, line) for line, content in parsed(data, _content)]


def parsed(data: Data, parse: Callable[[dict[str, Any]], T]) -> list[tuple[int, T]]:
    """1-based number and value of every line, by a function that raises `BadLine`.

    Raises:
        Refused: `invalid_data`, as `read` does.
    """
    good, bad = scanned(data, parse)
    if bad:
        shown = "; ".join(f"line {number}: {why}" for number, why in bad[:SHOWN])
        more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
        raise Refused(
            "invalid_data",
            f"{len(bad):,} of the {len(bad) + len(good):,} lines of {data.name} cannot be used",
            f"{data.name}: {shown}{more}",
        )
    return good


def scanned(data: Data, parse: Callable[[dict[str, Any]], T]) -> tuple[list[tuple[int, T]], list[tuple[int, str]]]:
    """1-based number and value of every good line; number of every bad one, and what is wrong with it."""
    good: list[tuple[int, T]] = []
    bad: list[tuple[int, str]] = []
    for number, line in _lines(data):
        try:
            good.append((number, parse(_object(line))))
        except BadLine as error:
            bad.append((number, str(error)))
    return good, bad


def _lines(data: Data) -> Iterator[tuple[int, bytes]]:
    with data.path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = (raw.removeprefix(_BOM) if number == 1 else raw).strip()
            if line:
                yield number, line


def _object(line: bytes) -> dict[str, Any]:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise BadLine(f"not UTF-8 at byte {error.start + 1}") from None
    try:
        value = orjson.loads(line)  # refuses lone surrogates and bottomless nesting too, which tokenizers choke on
    except orjson.JSONDecodeError as error:
        raise BadLine(f"not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(value, dict):
        raise BadLine("not an object")
    return value


def _content(value: dict[str, Any]) -> str | Chat:
    if "text" in value:
        return string(value, "text")
    if "messages" in value:
        return messages(value, "messages")
    if "prompt" in value and "completion" in value:
        if isinstance(value["prompt"], list):
            return messages(value, "prompt") + messages(value, "completion")
        return string(value, "prompt") + string(value, "completion")
    raise BadLine(f"needs text, messages, or prompt and completion; {keys_of(value)}")


def keys_of(value: dict[str, Any]) -> str:
    """What a line has instead of what it should have."""
    if not value:
        return "it is empty"
    shown = ", ".join(key[:32] for key in list(value)[:SHOWN])
    return f"it has {shown}{' …' if len(value) > SHOWN else ''}"


def string(value: dict[str, Any], key: str) -> str:
    """A key's text.

    Raises:
        BadLine: it is none.
    """
    found = value[key]
    if not isinstance(found, str):
        raise BadLine(f"{key} is not a string")
    return found


def messages(value: dict[str, Any], key: str) -> Chat:
    """A key's chat. A content may be a list of parts of type `text`, as in OpenAI's API.

    Raises:
        BadLine: it is none, or there are no messages.
    """
    found = value[key]
    if not isinstance(found, list) or not found:
        raise BadLine(f"{key} is not a list of messages")
    return tuple(_turn(message, f"{key}[{index}]") for index, message in enumerate(found))


def _turn(message: Any, where: str) -> Turn:
    match message:
        case {"role": str(role), "content": (str() | list()) as content} if role:
            return Turn(role, said(content, where))
    raise BadLine(f"{where} needs a role and a content, two strings")


def said(content: str | list[Any], where: str) -> str:
    """A message's content as one string: it is one, or parts of type `text`.

    Raises:
        BadLine: there is another part.
    """
    return content if isinstance(content, str) else "".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
    raise BadLine(f"{where} has a part that is not text")
