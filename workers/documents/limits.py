"""What a process that touches hostile documents is left with. Linux; what the kernel forbids is left out.

As a program: `python -m workers.documents.limits CPU_S MEMORY_BYTES PARENT_PID COMMAND…` runs a command in them.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
PR_SET_NO_NEW_PRIVS: Final = 38
CLONE_NEWUSER: Final = 0x10000000  # linux/sched.h
CLONE_NEWNET: Final = 0x40000000
FILES: Final = 64  # open descriptors: a document, pipes, what an import opens

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """SIGKILL when the thread that started us ends; at once, when `parent` is gone already."""
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def isolate() -> None:
    """No new privileges from set-uid programs, and no network: a namespace without any interface that is up."""
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # As root the first is enough and keeps our user; anybody else needs a user namespace (some hosts forbid it).
        if _LIBC.unshare(CLONE_NEWNET) != 0:
            _LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET)


def confine(*, cpu_s: int, memory_bytes: int, file_bytes: int) -> None:
    """Bounds of this process and its children: CPU time (SIGXCPU, a second later SIGKILL), memory, files."""
    for name, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _lower(name, value, value)
    _lower(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)


def _lower(name: int, soft: int, hard: int) -> None:
    """Set a limit, or keep a stricter one that was there before."""
    _, allowed = resource.getrlimit(name)
    if allowed != resource.RLIM_INFINITY:
        soft, hard = min(soft, allowed), min(hard, allowed)
    resource.setrlimit(name, (soft, hard))


def main() -> None:
    """Become the command; its files may be as large as its memory."""
    cpu_s, memory_bytes, parent, *command = sys.argv[1:]
    die_with_parent(int(parent))
    isolate()
    confine(cpu_s=int(cpu_s), memory_bytes=int(memory_bytes), file_bytes=int(memory_bytes))
    os.execvp(command[0], command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main()
