"""Everything that a process has started, and its end. Orphans come to the nearest ancestor that adopts them."""

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_POLL_S = 0.01
_SPARED_S = 2.0


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that none is lost sight of."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(root: int) -> list[int]:
    """The pids below `root`, zombies left out."""
    children: dict[int, list[int]] = {}
    dead = set()
    for entry in Path("/proc").iterdir():
        with suppress(ValueError, OSError):
            pid = int(entry.name)
            # "pid (name) state ppid …": a name may hold spaces and brackets
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append(pid)
            if state in "ZX":
                dead.add(pid)
    found, below = [], list(children.get(root, ()))
    while below:
        pid = below.pop()
        found.append(pid)
        below += children.get(pid, ())
    return [pid for pid in found if pid not in dead]


def end_descendants() -> None:
    """SIGKILL everything below this process until nothing is left; collects what ended."""
    spared_until = time.monotonic() + _SPARED_S
    while left := descendants(os.getpid()):
        spare = time.monotonic() < spared_until
        for pid in left:
            if not (spare and _tidies_up(pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
        collect()


def _tidies_up(pid: int) -> bool:
    """Whether it is the process in which Python's multiprocessing unlinks the shared memory of processes that died.

    It leaves by itself as soon as they have. Killed with them, a tensor-parallel vLLM leaves 160 MiB in /dev/shm.
    """
    with suppress(OSError):
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def collect() -> None:
    """Take the status of every child that has ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
