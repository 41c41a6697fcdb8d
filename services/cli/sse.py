"""Server-sent events, as a client reads them (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSentEvent:
    """One event. `id` is what `Last-Event-ID` asks to go on from."""

    id: str
    type: str
    data: str


def parse(lines: Iterable[str]) -> Iterator[ServerSentEvent]:
    """The events in a stream's lines. Comments (`: ping`) are skipped, an event that was cut off is dropped."""
    last_id, kind, data = "", "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield ServerSentEvent(last_id, kind, "\n".join(data))
            kind, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            last_id = value
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
