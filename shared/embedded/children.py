"""The yard's processes together: started, restarted when they die, stopped in order."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from shared.embedded.errors import CannotStart, YardError
from shared.embedded.layout import tail
from shared.embedded.listening import Signals
from shared.embedded.process import Child, Role, reap_orphans, stop

log = logging.getLogger("modelyard.yard")

TICK_S = 0.05  # between two looks while something starts
WATCH_S = 1.0  # between two looks when all is well; a signal (a child's death, too) wakes us at once
SHOWN_LINES = 12  # of a log, when its process does not start


class Interrupted(Exception):
    """A stop signal came."""


class Children:
    """Every method runs on the thread that made it, and raises Interrupted once a stop signal has come."""

    def __init__(self, signals: Signals, *, changed: Callable[[], None]) -> None:
        self._signals = signals
        self._changed = changed  # told whenever a pid is new
        self._all: list[Child] = []  # these are kept alive
        self._passing: list[Child] = []  # these end by themselves

    def pids(self, names: Iterable[str]) -> dict[str, list[int]]:
        """{role: its living pids} of the given roles."""
        return {
            name: [child.pid for child in self._all if child.role.name == name and child.pid is not None]
            for name in names
        }

    def restarts(self) -> dict[str, int]:
        """How often each role had to be started again; roles that never had are left out."""
        counts: dict[str, int] = {}
        for child in self._all:
            if child.starts > 1:
                counts[child.role.name] = counts.get(child.role.name, 0) + child.starts - 1
        return counts

    def start(self, rows: Sequence[Role], *, timeout_s: float) -> None:
        """Start these roles at once and wait until all are ready. Raises CannotStart."""
        fresh = [Child(role) for role in rows]
        for child in fresh:
            self._all.append(child)
            child.start()
        self._changed()
        deadline = time.monotonic() + timeout_s
        while waiting := [child for child in fresh if not child.ready]:
            futile = any(child.starts >= child.role.tries and child.pid is None for child in waiting)
            if futile or time.monotonic() > deadline:
                raise CannotStart(_silence(waiting, timeout_s=timeout_s))
            self._turn(TICK_S)

    def run_once(self, row: Role, *, timeout_s: float) -> None:
        """Run a process to its end while the others are watched. Raises CannotStart when it fails."""
        child = Child(row)
        self._passing.append(child)
        child.start()
        deadline = time.monotonic() + timeout_s
        try:
            while child.exit_code is None and time.monotonic() < deadline:
                self._turn(TICK_S)
        finally:
            stop([child])
            self._passing.remove(child)
        if child.exit_code != 0:
            raise CannotStart(_silence([child], timeout_s=timeout_s))

    def watch(self) -> None:
        """Restart whatever dies, for ever: only Interrupted ends it."""
        while True:
            self._turn(WATCH_S)

    def stop(self, order: Sequence[Sequence[str]]) -> None:
        """Stop the roles group by group; a group is gone before the next is asked."""
        for names in order:
            group = [child for child in self._all if child.role.name in names]
            stop(group)
            self._changed()
        reap_orphans(self._all)

    def _turn(self, timeout_s: float) -> None:
        """Wait for a signal, bury the dead, start again what is due."""
        soonest = min((child.due_at for child in self._all if child.due_at is not None), default=None)
        if soonest is not None:
            timeout_s = max(0.0, min(timeout_s, soonest - time.monotonic()))
        self._signals.wait(timeout_s)
        if self._signals.stop_asked:
            raise Interrupted
        reap_orphans([*self._all, *self._passing])
        for child in self._all:
            if child.pid is None:
                self._tend(child)

    def _tend(self, child: Child) -> None:
        if child.due_at is None:
            delay_s = child.plan_restart()
            log.warning("%s ended (%s); again in %.2f s", child.role.name, child.exit_code, delay_s)
            self._changed()
        if child.due_at is not None and time.monotonic() >= child.due_at:
            try:
                child.start()
            except (OSError, YardError) as error:  # a full disk, a program that was just replaced
                log.warning("%s cannot start: %s", child.role.name, error)
                child.plan_restart()
            self._changed()


def _silence(late: Sequence[Child], *, timeout_s: float) -> str:
    """What is wrong with processes that are not ready: how they are, and the end of their logs."""
    shown = []
    for child in late:
        how = f"ended with {child.exit_code}" if child.pid is None else f"is not ready after {timeout_s:g} s"
        last = "\n    ".join(tail(child.role.log, lines=SHOWN_LINES))
        shown.append(f"{child.role.name} {how} ({child.role.log}):\n    {last}\n")
    return "".join(shown)
