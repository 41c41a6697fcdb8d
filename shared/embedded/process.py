"""One supervised process: how it starts, how we see that it is ready, how it ends, when it may come back."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.embedded.layout import open_log

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
CALM_S: Final = 30.0  # a process that lived this long starts with a clean slate
FIRST_DELAY_S: Final = 0.25  # the second restart in a row waits this long; then it doubles
POLL_S: Final = 0.02
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def always(pid: int) -> bool:
    """The readiness of a process that has nothing to ask: it is alive."""
    return pid > 0


def nothing() -> None:
    """The preparation of a process that needs none."""


@dataclass(frozen=True)
class Role:
    """One row of the yard's table: a process that has to be there."""

    name: str  #: the key in yard.json's `pids`
    argv: tuple[str, ...]  #: no secrets: everybody on the host may read it
    env: Mapping[str, str]  #: the whole environment
    log: Path  #: stdout and stderr are appended here
    cwd: Path
    ready: Callable[[int], bool] = always  #: asked with the pid until it says yes; answers soon
    prepare: Callable[[], None] = nothing  #: runs before every start
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 10  #: between the stop signal and SIGKILL
    longest_delay_s: float = 10  #: cap of the backoff between restarts
    tries: int = 5  #: how often it may end while the yard starts; afterwards it is restarted for ever
    parent_death: signal.Signals | None = None  #: what it gets when its parent is killed (Linux)
    inherit: tuple[int, ...] = ()  #: descriptors it keeps


@dataclass
class Backoff:
    """When a dead process may start again: at once, then 0.25 s, 0.5 s, … up to a cap; calm forgives."""

    longest_s: float
    _deaths: int = field(default=0, init=False)

    def delay_s(self, *, lived_s: float) -> float:
        """Seconds to wait after a death of a process that had lived `lived_s`."""
        if lived_s >= CALM_S:
            self._deaths = 0
        self._deaths += 1
        if self._deaths == 1:
            return 0.0
        return min(self.longest_s, FIRST_DELAY_S * 2.0 ** min(self._deaths - 2, 16))


class Child:
    """A role's process. Started and ended by one thread: PDEATHSIG is of the thread that forks."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.starts = 0
        self.due_at: float | None = None  # when a dead child may start again, on the monotonic clock
        self._backoff = Backoff(role.longest_delay_s)
        self._process: subprocess.Popen[bytes] | None = None
        self._born_at = 0.0

    @property
    def pid(self) -> int | None:
        """The pid while the process lives, else None."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit status of the last process, None while it lives or before the first start."""
        return None if self._process is None else self._process.poll()

    @property
    def ready(self) -> bool:
        """Whether the process lives and its probe says yes."""
        pid = self.pid
        return pid is not None and self.role.ready(pid)

    def start(self) -> None:
        """Start the process in a session of its own, so that a terminal's Ctrl-C reaches the yard alone."""
        assert self.pid is None
        self.role.prepare()
        log = open_log(self.role.log)
        try:
            self._process = subprocess.Popen(
                self.role.argv,
                env=dict(self.role.env),
                cwd=self.role.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
                pass_fds=self.role.inherit,
                preexec_fn=_parent_death(self.role.parent_death),  # noqa: PLW1509 - one thread, libc is loaded
            )
        finally:
            os.close(log)
        self.starts += 1
        self.due_at = None
        self._born_at = time.monotonic()

    def plan_restart(self) -> float:
        """Note that the process died, and set `due_at`. Returns the delay in seconds."""
        now = time.monotonic()
        delay_s = self._backoff.delay_s(lived_s=now - self._born_at)
        self.due_at = now + delay_s
        return delay_s

    def send(self, number: signal.Signals) -> None:
        """Signal the process, if it lives."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def collect(self, pid: int) -> bool:
        """Whether `pid` is this child's; if so its exit status is collected."""
        if self._process is None or self._process.pid != pid:
            return False
        self._process.poll()
        return True

    def kill_group(self) -> None:
        """SIGKILL what is left of the process's group, leader included."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def stop(children: list[Child]) -> None:
    """Ask all of them to end, wait for each one's grace, then kill; returns when every one is gone."""
    begun = time.monotonic()
    for child in children:
        child.send(child.role.stop_signal)
    for child in children:
        while child.pid is not None and time.monotonic() - begun < child.role.grace_s:
            time.sleep(POLL_S)
        child.kill_group()


def await_ready(children: list[Child], *, timeout_s: float) -> list[Child]:
    """Wait until all are ready. Returns those that are not: dead, or silent after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    waiting = children
    while (waiting := [child for child in waiting if not child.ready]) and time.monotonic() < deadline:
        if any(child.exit_code is not None for child in waiting):
            break
        time.sleep(POLL_S)
    return waiting


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none escapes (Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(children: list[Child]) -> None:
    """Collect adopted processes that have ended, and leave our own children to their Child."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        if not any(child.collect(ended.si_pid) for child in children):
            with suppress(ChildProcessError):
                os.waitpid(ended.si_pid, 0)


def _parent_death(number: signal.Signals | None) -> Callable[[], None] | None:
    if number is None or sys.platform != "linux":
        return None
    parent = os.getpid()

    def ask() -> None:
        _LIBC.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return ask
