"""Server-sent events (WHATWG HTML §9.2): how many may be open, and what one looks like on the wire."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from uuid import UUID

from services.accounts.service import Caller
from shared.errors import TooManyRequests
from shared.telemetry import gauge

OF_KEY = 5
OF_TENANT = 50
OF_PROCESS = 1000
PING_S = 15.0
LIFE_S = 15 * 60.0  #: then the client resumes with Last-Event-ID
RECHECK_S = 60.0  #: a revoked key reads no longer than this

OPEN = gauge("event_streams", "Event streams that are open")
PING = b": ping\n\n"


class Streams:
    """Counts the open streams of this process. Used from the event loop alone."""

    def __init__(self) -> None:
        self._open: Counter[str | UUID] = Counter()

    @contextlib.contextmanager
    def opened(self, caller: Caller) -> Iterator[None]:
        """Hold one place for as long as a stream is open.

        Raises:
            TooManyRequests: the key, its tenant or the process has as many as it may.
        """
        places: dict[str | UUID, int] = {caller.key_id: OF_KEY, caller.tenant_id: OF_TENANT, "process": OF_PROCESS}
        full = [place for place, limit in places.items() if self._open[place] >= limit]
        if full:
            raise TooManyRequests(f"Too many event streams are open: at most {OF_KEY} a key, {OF_TENANT} a tenant.")
        self._open.update(places.keys())
        OPEN.inc()
        try:
            yield
        finally:
            self._open.subtract(places.keys())
            self._open += Counter()  # forget those that went back to zero
            OPEN.dec()


def message(*, id: int, event: str, data: bytes) -> bytes:
    """One event. `data` is JSON, so it holds no line break."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (id, event.encode(), data)
