"""One LISTEN connection per process, fanned out to whoever waits in it."""

import threading
from collections.abc import Callable, Sequence

import psycopg

from shared.telemetry import logger

POLL_S = 2.0  #: a missed notification costs no more than this
Callback = Callable[[str, str], None]

log = logger(__name__)


class Listener:
    """Calls `callback(channel, payload)` in its own thread for each notification.

    After a lost connection it reconnects with backoff and calls `callback(channel, "")` for every channel: something
    may have been missed, so look. Payloads: `adapters` a base model's digest, `bells` a queue, `controls` a job id,
    `events` job ids joined by commas.
    """

    def __init__(self, url: str, channels: Sequence[str], callback: Callback) -> None:
        self._url = url.replace("postgresql+psycopg://", "postgresql://", 1)
        self._channels = tuple(channels)
        self._callback = callback
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        """Start listening; returns at once, also while PostgreSQL is down."""
        self._thread.start()

    def close(self) -> None:
        """Stop and wait for the thread (at most one poll)."""
        self._stop.set()
        self._thread.join(timeout=POLL_S * 2)

    def _run(self) -> None:
        wait = 0.1
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True, connect_timeout=3) as connection:
                    wait = 0.1
                    self._hear(connection)
            except psycopg.Error as error:
                log.warning("listener.disconnected", extra={"error": type(error).__name__})
                self._stop.wait(wait)
                wait = min(POLL_S, wait * 2)

    def _hear(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        for channel in self._channels:
            connection.execute(f"LISTEN {channel}")  # our own constants
        for channel in self._channels:
            self._callback(channel, "")
        while not self._stop.is_set():
            for heard in connection.notifies(timeout=POLL_S):
                self._callback(heard.channel, heard.payload)
                if self._stop.is_set():
                    return
