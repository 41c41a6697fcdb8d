"""Starting an engine's process: from nothing, or from a spare one that has imported everything already.

Everything here runs in the runner's thread, because PR_SET_PDEATHSIG is bound to the thread that forks.
"""

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shared.embedded.environment import MARK, PASSED
from shared.embedded.layout import open_log
from shared.settings import passed_on
from workers.runtime.slots import VISIBLE, SlotName, visible_devices


def spawn(
    argv: Sequence[str], *, log: Path, slots: Sequence[SlotName], fds: Sequence[int], stdin: int = subprocess.DEVNULL
) -> "subprocess.Popen[bytes]":
    """Start a process group of its own that logs to `log`, sees its devices alone, and inherits the locks `fds`."""
    env = {**passed_on((*PASSED, MARK)), "PYTHONUNBUFFERED": "1"}
    written = open_log(log)
    try:
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=written,
            stderr=written,
            start_new_session=True,
            env={**env, **visible_devices(slots, inherited=env.get(VISIBLE))},
            pass_fds=tuple(fds),
        )
    finally:
        os.close(written)


def end_of(log: Path) -> int:
    """Where a log ends now (one over the cap is set aside first): what a process adds comes after it."""
    written = open_log(log)
    try:
        return os.fstat(written).st_size
    finally:
        os.close(written)


@dataclass(frozen=True)
class Spare:
    """A process without a model, which waits for the path of its configuration on stdin."""

    child: "subprocess.Popen[bytes]"
    fds: tuple[int, ...]

    def become(self, config: Path) -> "subprocess.Popen[bytes]":
        """Turn it into the engine that `config` describes; one that died meanwhile is told by its exit."""
        assert self.child.stdin is not None
        with suppress(BrokenPipeError):
            self.child.stdin.write(f"{config}\n".encode())
            self.child.stdin.flush()
        self.close()
        return self.child

    def close(self) -> None:
        """Close our end of its stdin."""
        assert self.child.stdin is not None
        with suppress(BrokenPipeError):
            self.child.stdin.close()
