"""Whose process this is: an engine never outlives the worker that answers for it, unless it was told to wait."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.contracts.engine import EXIT_LIFELINE

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the thread that started this process ends; exit at once when `parent_pid` already has.

    PR_SET_PDEATHSIG follows the parent's *thread*: start an engine from one that lives as long as the worker.
    """
    _set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        sys.exit(EXIT_LIFELINE)


def _set_parent_death_signal(number: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


class Lifelines:
    """The connections that keep this process alive.

    Until the first one opens, PR_SET_PDEATHSIG alone guards. When the last one breaks, `abandoned` is called:
    at once, or after the grace that `detach` gave. A lifeline that opens while detached adopts the engine,
    which ends the permission.
    """

    def __init__(self, abandoned: Callable[[], None]) -> None:
        self._abandoned = abandoned
        self._timer: asyncio.TimerHandle | None = None
        self._grace_s: float | None = None
        self.open = 0  #: lifelines now

    @property
    def detached(self) -> bool:
        """Whether the engine would outlive its last lifeline for a while."""
        return self._grace_s is not None

    def detach(self, grace_s: float) -> None:
        """Outlive the parent, and the last lifeline for `grace_s` seconds."""
        _set_parent_death_signal(0)
        self._grace_s = grace_s
        if not self.open:
            self._wait()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """One lifeline, from opening to breaking."""
        self.open += 1
        self._grace_s = None
        if self._timer is not None:
            self._timer.cancel()
        try:
            yield
        finally:
            self.open -= 1
            if not self.open:
                self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._grace_s is None:
            self._abandoned()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._grace_s, self._abandoned)
