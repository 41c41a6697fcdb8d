"""What every forge has in common: its spec, its messages, and whose process it is."""

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

from shared.contracts.forge import EXIT_FAILED, EXIT_ORPHANED, EXIT_STOPPED, ErrorMessage, ForgeSpec, Message
from shared.contracts.jobs import JobError
from workers.forge.ranks import rank, under_torchrun

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Stopped(Exception):
    """The worker asked for a checkpoint and an end."""


class Pipe:
    """The worker's end of this process: messages go out, the wish to stop comes in.

    Where a forge has several processes, rank 0 speaks; the others say what went wrong, and nothing else.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.heeding = threading.Event()  # while the work looks at `stopping`; else SIGTERM ends it at once
        self._lock = threading.Lock()
        self._descriptor = _take_stdout()

    def send(self, message: Message) -> None:
        """Write one message."""
        if rank() > 0 and not isinstance(message, ErrorMessage):
            return
        line = memoryview(message.model_dump_json().encode() + b"\n")
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]

    def fail(self, code: str, title: str, *, detail: str = "", retryable: bool = False) -> None:
        """Say why there is no result, and leave."""
        error = JobError(code=code, title=title, detail=detail, retryable=retryable)
        self.send(ErrorMessage(error=error))
        sys.exit(EXIT_FAILED)

    def stop(self) -> None:
        """Leave because the worker asked for it; the last checkpoint has been sent."""
        sys.exit(EXIT_STOPPED)


def start() -> tuple[ForgeSpec, Pipe]:
    """The spec named in argv and the pipe of a forge, whose process dies with its worker from now on."""
    spec = ForgeSpec.model_validate_json(Path(sys.argv[1]).read_bytes())
    _die_with(spec.parent_pid)
    pipe = Pipe()
    signal.signal(signal.SIGTERM, lambda *_: pipe.stopping.set())
    threading.Thread(target=_watch_stdin, name="worker-pipe", daemon=True).start()
    os.nice(spec.nice)
    return spec, pipe


def _take_stdout() -> int:
    """The way to the worker, for messages alone: what a library prints goes to stderr from now on."""
    sys.stdout.flush()
    private = os.dup(1)
    os.dup2(2, 1)
    return private


def _die_with(parent_pid: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # torchrun's agent stands between a worker and its ranks: the pipe on stdin tells them of the worker's death.
    if not under_torchrun() and os.getppid() != parent_pid:  # it died before the line above
        os._exit(EXIT_ORPHANED)


def _watch_stdin() -> None:
    """End the whole group when the worker's pipe closes: PDEATHSIG reaches this process alone."""
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)
