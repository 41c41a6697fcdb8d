"""Watching a job from outside: its numbered events as a stream, by polling where streams do not get through."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from services.cli.client import CallError, Client, Unreachable
from services.cli.sse import ServerSentEvent
from shared.clock import monotonic
from shared.contracts.jobs import TERMINAL_EVENTS

POLL_S = 1.0
PATIENCE_S = 60.0  # how long a gateway may be away before the watcher gives up
FIRST_SILENCE_S = 3.0  # a stream begins with what has happened already: silence means that something holds it back
SILENCE_S = 20.0  # a stream says `: ping` every 15 s


@dataclass(frozen=True)
class Event:
    """One numbered event of a job. `raw` is the event as the gateway shows it."""

    id: int
    type: str
    raw: dict[str, Any]

    @property
    def terminal(self) -> bool:
        """Whether none follows."""
        return self.type in TERMINAL_EVENTS

    @property
    def data(self) -> dict[str, Any]:
        """What the event says beyond its name."""
        return dict(self.raw.get("data") or {})


def follow(client: Client, job_id: str, *, after: int = 0, tick_s: float = POLL_S) -> Iterator[Event | None]:
    """A job's events from number `after` + 1 to the terminal one, as they come; None when `tick_s` passed without one.

    Raises:
        Refused: there is no such job, or the key may not read it.
        Unreachable: nobody has answered for `PATIENCE_S`.
    """
    reader = _Reader(client, job_id, after)
    reader.start()
    try:
        while True:
            try:
                heard = reader.inbox.get(timeout=tick_s)
            except Empty:
                yield None
                continue
            if isinstance(heard, CallError):
                raise heard
            yield heard
            if heard.terminal:
                return
    finally:
        reader.stopped.set()


def known_events(client: Client, job_id: str, *, after: int = 0) -> Iterator[Event]:
    """What has happened to a job so far, page by page. Raises Refused, Unreachable."""
    more = True
    while more:
        page = client.get(f"/v1/jobs/{job_id}/events", after=after or None)
        for raw in page["data"]:
            yield Event(int(raw["id"]), raw["type"], raw)
            after = int(raw["id"])
        more = page["has_more"]


class _Reader(threading.Thread):
    """Reads a job's events into `inbox`, whatever happens to the connection. A CallError in there is the last word."""

    def __init__(self, client: Client, job_id: str, after: int) -> None:
        super().__init__(daemon=True, name=f"events of {job_id}")
        self.inbox = SimpleQueue[Event | CallError]()
        self.stopped = threading.Event()
        self._client = client
        self._job_id = job_id
        self._after = after
        self._streams = True  # until a poll knows what a stream kept silent about

    def run(self) -> None:
        answered = monotonic()
        while not self.stopped.is_set():
            try:
                if self._round():
                    return
                answered = monotonic()
            except Unreachable as error:
                if monotonic() - answered > PATIENCE_S:
                    self.inbox.put(error)
                    return
            except CallError as error:
                self.inbox.put(error)
                return
            except RuntimeError:  # the client was closed under us: nobody reads this inbox any more
                return
            self.stopped.wait(POLL_S)

    def _round(self) -> bool:
        """One stream until it breaks, then one poll for what it may have missed. Whether the job has ended."""
        begun = self._after
        if self._streams:
            silence_s = SILENCE_S if begun else FIRST_SILENCE_S
            path = f"/v1/jobs/{self._job_id}/events"
            for message in self._client.events(path, after=begun, silence_s=silence_s):
                if self._hear(_event(message)):
                    return True
        silent = self._after == begun
        for event in known_events(self._client, self._job_id, after=self._after):
            self._streams = self._streams and not silent
            if self._hear(event):
                return True
        return False

    def _hear(self, event: Event) -> bool:
        self._after = max(self._after, event.id)
        self.inbox.put(event)
        return event.terminal or self.stopped.is_set()


def _event(message: ServerSentEvent) -> Event:
    raw = json.loads(message.data)
    return Event(int(message.id or raw.get("id") or 0), message.type, raw)
