"""Yards whose clocks run fast: leases of seconds, retries at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.history import History
from tests.support.yards import RunningYard, yards

QUICK: dict[str, Any] = {
    "lease_ttl_s": 6,
    "heartbeat_s": 1,
    "reaper_tick_s": 1,
    "reconcile_s": 2,
    "runner_poll_s": 3,
    "retry_base_s": 0.2,
    "retry_max_s": 1,
    "cancel_term_s": 2,
    "engine_spares": 0,  # each costs 4 s of CPU
    "webhook_timeout_s": 2,
    "webhook_retry_scale": 0.001,
}


@contextmanager
def quick_yard(folder: Path, **settings: Any) -> Iterator[tuple[RunningYard, History]]:
    """A yard with `QUICK` settings and its history."""
    with yards(folder) as start:
        yard = start(**(QUICK | settings))
        history = History(yard)
        try:
            yield yard, history
        finally:
            history.close()


@pytest.fixture(scope="module")
def shared_yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningYard, History]]:
    """One yard for the scenarios of a module that leave it whole."""
    with quick_yard(tmp_path_factory.mktemp("faults")) as both:
        yield both
