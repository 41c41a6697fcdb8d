"""Waiting for jobs and engines to change: one LISTEN connection per process, fanned out to whoever waits.

A request that waits holds no session and no thread: it sleeps until its job is named in a notification, or for
`POLL_S`, and then looks.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from uuid import UUID

from shared.clock import monotonic
from shared.db.listen import POLL_S, Listener


class Bell:
    """Rings when the job that it stands for may have changed, and when the process is about to stop."""

    def __init__(self, watch: "Watch") -> None:
        self._watch = watch
        self.rung = asyncio.Event()

    async def wait(self, *, until: float) -> bool:
        """Sleep until it rings, at most `POLL_S`. False once `until` (monotonic) has passed or we are closing."""
        left = until - monotonic()
        if left <= 0 or self._watch.closing:
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.rung.wait(), min(left, POLL_S))
        self.rung.clear()
        return True


class Watch:
    """The bells of a process. Used from the event loop alone; only `_heard` runs elsewhere."""

    def __init__(self, url: str) -> None:
        self._bells: defaultdict[str, set[Bell]] = defaultdict(set)
        self._hearers: dict[str, Callable[[str], None]] = {}
        self._listener = Listener(url, ["events", "engines", "controls"], self._heard)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.closing = False

    def hear(self, channel: str, hearer: Callable[[str], None]) -> None:
        """Call `hearer(payload)` in the event loop for each notification of `engines` or `controls`.

        An empty payload means that something may have been missed.
        """
        self._hearers[channel] = hearer

    def start(self) -> None:
        """Begin to listen; called in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._listener.start()

    def close(self) -> None:
        """Let every waiting request go."""
        self.closing = True
        self._ring("")

    def close_soon(self) -> None:
        """`close`, from a signal handler."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.close)

    async def stop(self) -> None:
        """Close the connection."""
        self.close()
        await asyncio.to_thread(self._listener.close)

    @contextlib.contextmanager
    def on(self, job_id: UUID) -> Iterator[Bell]:
        """A bell for a job. Open it before looking, or the change in between goes unheard."""
        bell, key = Bell(self), str(job_id)
        self._bells[key].add(bell)
        try:
            yield bell
        finally:
            self._bells[key].discard(bell)
            if not self._bells[key]:
                del self._bells[key]

    def _heard(self, channel: str, payload: str) -> None:
        """In the listener's thread. An empty payload means that something may have been missed."""
        assert self._loop is not None
        hearer = self._ring if channel == "events" else self._hearers.get(channel)
        if hearer is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                self._loop.call_soon_threadsafe(hearer, payload)

    def _ring(self, payload: str) -> None:
        keys = payload.split(",") if payload else list(self._bells)
        for bell in [bell for key in keys for bell in self._bells.get(key, ())]:
            bell.rung.set()
