"""Spare engine processes: started ahead and without a model, so that a small model answers seconds earlier.

Importing torch and transformers takes most of the time in which a small model is loaded. A spare has done it.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

from shared.clock import monotonic
from shared.settings import Settings
from shared.telemetry import logger
from workers.runtime.folders import Folders
from workers.runtime.processes import signal_group
from workers.runtime.slots import CPU, SlotName, Slots
from workers.runtime.spawning import Spare, spawn

ARGV: Final = (sys.executable, "-m", "workers.engine", "--spare")
LOOK_S: Final = 0.5
QUIET_S: Final = 1.0  # without work for the host's cores: a spare's imports take 6 s of one
SHORT_LIVED_S: Final = 20.0
PATIENCE_S: Final = 30.0
LONGEST_WAIT_S: Final = 300.0  # between two tries, when spares die at once

log = logger(__name__)


class Spares:
    """The spare processes of a CPU worker. Used on the runner's loop, in the runner's thread."""

    def __init__(self, settings: Settings, folders: Folders, slots: Slots) -> None:
        self._wanted = settings.engine_spares if settings.gpu_class == CPU else 0
        self._log = folders.logs / "engine-spare.log"
        self._slots = slots
        self._spares: list[tuple[Spare, float]] = []
        self._wait_s = 0.0

    def take(self) -> Spare | None:
        """A spare that lives, if there is one; it holds the locks of every slot that this worker had at its start."""
        self._drop_dead()
        return self._spares.pop(0)[0] if self._spares else None

    async def run(
        self, *, names: Callable[[], Sequence[SlotName]], starting: Callable[[], bool], answering: Callable[[], bool]
    ) -> None:
        """Keep as many spares as wanted, until cancelled.

        One is started when no engine starts or answers; while engines only answer, after `PATIENCE_S` all the same.
        """
        quiet_since = calm_since = monotonic()
        while self._wanted:
            await asyncio.sleep(LOOK_S)
            self._drop_dead()
            now = monotonic()
            if starting() or not names():
                quiet_since = calm_since = now
            elif answering():
                quiet_since = now
            calm = now - quiet_since >= QUIET_S + self._wait_s or now - calm_since >= PATIENCE_S + self._wait_s
            if calm and len(self._spares) < self._wanted:
                self._start(names())
                quiet_since = calm_since = now

    def _start(self, names: Sequence[SlotName]) -> None:
        fds = tuple(self._slots.descriptors(names))
        child = spawn(ARGV, log=self._log, slots=(), fds=fds, stdin=subprocess.PIPE)
        self._spares.append((Spare(child, fds), monotonic()))

    def _drop_dead(self) -> None:
        """Forget spares that died; when they die at once, try less and less often."""
        for spare, since in list(self._spares):
            if spare.child.poll() is None:
                continue
            self._spares.remove((spare, since))
            spare.close()
            lived = monotonic() - since
            self._wait_s = 0.0 if lived > SHORT_LIVED_S else min(LONGEST_WAIT_S, self._wait_s * 2 + 1)
            log.warning("spare engine died", extra={"status": spare.child.returncode, "lived_s": round(lived, 1)})

    def close(self) -> None:
        """End them."""
        self._wanted = 0
        for spare, _ in self._spares:
            signal_group(spare.child.pid, signal.SIGKILL)
            spare.child.wait()
            spare.close()
        self._spares.clear()
