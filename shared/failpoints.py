"""Places where a test may make a process die, stall or lie. Armed by `settings.failpoints`.

    MODELYARD_FAILPOINTS=claim.after_commit:kill9,webhook.after_2xx:raise@3

Actions: `kill9` ends the process as the kernel would; `raise` raises `Injected`; `hang` never returns;
`sleep=N` stalls N seconds; `exec_then_raise` lets the operation happen and then tells its caller that it
failed (with `around`; a `hit` stands after its operation, so there it is `raise`). `@n` acts at the n-th hit
of a process alone, `@once` at the first hit of all processes that share a data folder: the one that takes the
place of a killed process goes on.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from shared.settings import settings

#: every place that calls `hit` or `around`, and what has just happened there
POINTS = {
    "submit.before_commit": "a job is written, not committed",
    "submit.after_commit": "a job is accepted, its caller does not know yet",
    "relay.after_publish": "a bell is rung, its outbox row is still there",
    "claim.after_commit": "a job is claimed, its runner has not started it",
    "hb.before": "a heartbeat is about to be written",
    "ckpt.after_upload": "a checkpoint's blobs are stored, its row is not",
    "ckpt.after_commit": "a checkpoint is committed",
    "finish.after_upload": "artifacts are stored, the job is still running",
    "finish.after_commit": "a job is finished, its runner does not know yet",
    "batch.after_compute": "lines are computed, not recorded",
    "batch.after_commit": "lines are recorded",
    "webhook.after_2xx": "a receiver accepted an event, its delivery is still pending",
    "control.after_work": "a control task's work is done, not committed",
    "reaper.after_update": "a lost attempt is ended, not committed",
    "cancel.after_flag": "a cancel is requested, not committed",
    "gc.before_delete": "a blob is about to be deleted",
}


class Injected(RuntimeError):
    """A failpoint raised."""


class Kind(StrEnum):
    """What an armed failpoint does."""

    KILL = "kill9"
    RAISE = "raise"
    HANG = "hang"
    SLEEP = "sleep"
    EXEC_THEN_RAISE = "exec_then_raise"


@dataclass(frozen=True)
class Action:
    """A parsed action: `sleep=0.5@2` is (SLEEP, 0.5 s, at the second hit)."""

    kind: Kind
    seconds: float = 0.0
    nth: int | None = None
    once: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """The action that `text` spells.

        Raises:
            ValueError: no such action, or a number that is none.
        """
        body, _, nth = text.partition("@")
        kind, _, seconds = body.partition("=")
        once = nth == "once"
        return cls(Kind(kind), float(seconds or 0), int(nth) if nth and not once else None, once)


class Failpoints:
    """The armed places of this process."""

    def __init__(self, text: str) -> None:
        self._actions = dict(_parse(text))
        self._hits: Counter[str] = Counter()
        self._lock = threading.Lock()

    def due(self, name: str) -> Action | None:
        """The action to take at this hit of `name`, if any."""
        assert name in POINTS, name
        action = self._actions.get(name)
        if action is None:
            return None
        if action.once:
            return action if _first_of_all(name) else None
        with self._lock:
            self._hits[name] += 1
            return action if action.nth in (None, self._hits[name]) else None


class _Process:
    """Failpoints of the process; None until the first hit reads the settings."""

    armed: Failpoints | None = None


def hit(name: str) -> None:
    """Act if `name` is armed. Stands right after what the name says.

    Raises:
        Injected: the action is `raise`.
    """
    action = _armed().due(name)
    if action is not None:
        _act(action, name)


@contextmanager
def around(name: str) -> Iterator[None]:
    """Wrap an operation: `exec_then_raise` lets it happen and then raises; other actions come before it.

    Raises:
        Injected: the action is `raise` or `exec_then_raise`.
    """
    action = _armed().due(name)
    late = action is not None and action.kind is Kind.EXEC_THEN_RAISE
    if action is not None and not late:
        _act(action, name)
    yield
    if late:
        raise Injected(name)


@contextmanager
def armed(text: str) -> Iterator[None]:
    """Arm failpoints of this process for the length of a block: for tests that need no process."""
    before, _Process.armed = _Process.armed, Failpoints(text)
    try:
        yield
    finally:
        _Process.armed = before


def _armed() -> Failpoints:
    if _Process.armed is None:
        _Process.armed = Failpoints(settings().failpoints)
    return _Process.armed


def _first_of_all(name: str) -> bool:
    marker = settings().data_dir / f"failpoint-{name}"
    try:
        marker.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        return False
    return True


def _parse(text: str) -> Iterator[tuple[str, Action]]:
    for part in filter(None, text.split(",")):
        name, _, action = part.strip().partition(":")
        if name not in POINTS:
            raise ValueError(f"no failpoint is called {name!r}; there are {', '.join(sorted(POINTS))}")
        yield name, Action.parse(action)


def _act(action: Action, name: str) -> None:
    match action.kind:
        case Kind.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Kind.SLEEP:
            time.sleep(action.seconds)
        case Kind.HANG:
            threading.Event().wait()
        case Kind.RAISE | Kind.EXEC_THEN_RAISE:
            raise Injected(name)
