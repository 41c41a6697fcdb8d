"""The one place in the tests that sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T | None], *, timeout: float = 10.0, every: float = 0.02, what: str = "") -> T:
    """Poll `predicate` until it is truthy and return what it said. Fails the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or predicate} did not come true within {timeout:g} s: {answer!r}")
        time.sleep(every)
    return answer
