"""Time as the platform uses it: monotonic seconds for waiting, UTC for people; decisions use the database's clock."""

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """The wall clock, aware, UTC. For display and signatures; never for leases (those use the database's clock)."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds that only grow. For intervals inside one process."""
    return time.monotonic()
