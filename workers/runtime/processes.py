"""Processes that outlive a function: who they are, when they end, how their whole group is ended."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import orjson
import psutil
from pydantic import BaseModel, ConfigDict

from shared.contracts.serving import Serving
from shared.embedded.layout import write_private

POLL_S = 0.05
SAME_START_S = 0.5  # psutil derives the start time from the boot time: it may waver by a clock tick


class Identity(BaseModel):
    """A process that is told apart from a later one with the same pid."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: float  #: Unix seconds

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """The identity of a process that lives.

        Raises:
            ProcessLookupError: it does not.
        """
        try:
            return cls(pid=pid, started=psutil.Process(pid).create_time())
        except psutil.NoSuchProcess as error:
            raise ProcessLookupError from error

    @property
    def age_s(self) -> float:
        """Seconds since its start."""
        return time.time() - self.started

    def alive(self) -> bool:
        """Whether it runs still; a zombie does not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < SAME_START_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def kill_group(self) -> None:
        """SIGKILL the group that it leads, if it is still the same process."""
        if self.alive():
            signal_group(self.pid, signal.SIGKILL)


class Note(BaseModel):
    """`process.json` in the folder of an engine or an attempt: who runs there, and for which worker."""

    model_config = ConfigDict(frozen=True)

    process: Identity
    worker: Identity
    slots: tuple[str, ...] = ()  #: names of the slots whose locks the process inherited
    kind: str = "transformers"  #: of an engine
    control: Path | None = None  #: an engine's control socket, when it is not the one that serves
    serving: Serving = Serving()  #: how an engine's model is served

    @classmethod
    def read(cls, folder: Path) -> "Note | None":
        """The note in a folder, if there is a readable one."""
        with suppress(OSError, ValueError):
            return cls.model_validate(orjson.loads((folder / "process.json").read_bytes()))
        return None

    def write(self, folder: Path) -> None:
        """Leave the note for whoever comes after a killed worker."""
        write_private(folder / "process.json", self.model_dump_json())


def signal_group(leader: int, number: signal.Signals) -> None:
    """Signal a process group; one that is gone needs none."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def group_lives(leader: int) -> bool:
    """Whether any process of the group is left (a zombie that nobody collected counts)."""
    try:
        os.killpg(leader, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


async def exited(pid: int) -> None:
    """Wait until a process has ended, child or not. Its status stays to be collected."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # no pidfd here: not Linux, or forbidden
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        return
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
