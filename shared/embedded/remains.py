"""Processes that belong to a yard, found by what they carry: after every stop, and after a yard was killed.

A process belongs when its environment carries our mark; when it is a store that works in our folder (PostgreSQL
and Redis overwrite their environment to show a title); when it is a Python that was told a path of our worker (an
engine or forge starts with an empty environment); or when it descends from one of those.
"""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from shared.embedded.environment import MARK
from shared.embedded.layout import Layout

POLL_S = 0.02
KILL_S = 5.0  # a killed process may be in the kernel for a moment
STORES = ("postgres", "redis-server", "rclone")
GONE = (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied)


def find(place: Layout) -> list[psutil.Process]:
    """Every living process of the yard in this folder, the calling process and its ancestors excepted."""
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid in spared or not _belongs(process, place):
            continue
        found[process.pid] = process
        with suppress(*GONE):
            found |= {child.pid: child for child in process.children(recursive=True)}
    return [process for process in found.values() if process.pid not in spared and _lives(process)]


def end(place: Layout, *, grace_s: float = 5) -> int:
    """Ask, and after `grace_s` kill, until no process of the yard is left: ours first, then the stores.

    Returns how many there were.
    """
    ended: set[int] = set()
    while left := find(place):
        ended |= {process.pid for process in left}
        stores = [process for process in left if _named(process, STORES)]
        for group in ([process for process in left if process not in stores], stores):
            _ask(group)
            stubborn = _await_end(group, timeout_s=grace_s)
            _kill(stubborn)
            _await_end(stubborn, timeout_s=KILL_S)
        grace_s = 0.5  # whoever appears now was started by one that is gone
    return len(ended)


def _belongs(process: psutil.Process, place: Layout) -> bool:
    with suppress(*GONE), process.oneshot():
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(MARK) == str(place.data):
            return True
        name = process.name()
        if name in STORES:
            return process.cwd() in {str(place.postgres), str(place.broker), str(place.cache)}
        if name.startswith("python"):
            ours = (f"{place.worker}/", f"{place.run}/")
            return any(part.startswith(ours) for part in process.cmdline())
    return False


def _lives(process: psutil.Process) -> bool:
    with suppress(*GONE):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _await_end(processes: list[psutil.Process], *, timeout_s: float) -> list[psutil.Process]:
    """Those that still live after `timeout_s`; psutil.wait_procs would wait for init to collect the dead."""
    deadline = time.monotonic() + timeout_s
    while (left := [process for process in processes if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


def _named(process: psutil.Process, names: tuple[str, ...]) -> bool:
    with suppress(*GONE):
        return process.name() in names
    return False


def _ask(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        fast = _named(process, ("postgres",))  # SIGTERM would wait for every session to leave
        with suppress(*GONE):
            process.send_signal(signal.SIGINT if fast else signal.SIGTERM)


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(*GONE):
            process.kill()
