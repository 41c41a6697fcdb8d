"""A forge's processes: one, or torchrun's agent and a rank a device. Their command, their messages, their end.

Messages come as JSON lines on a pipe; their stdin is a pipe of ours that breaks with us. Each of torchrun's ranks leads
a process group of its own, so whoever ends the forge looks for them first.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from shared.contracts.forge import EXIT_STOPPED, LINE_BYTES, MESSAGE, ForgeSpec, Message
from shared.contracts.jobs import JobError
from shared.embedded.layout import open_log, write_private
from shared.settings import passed_on
from workers.runtime.processes import Identity, Note, exited, signal_group
from workers.runtime.slots import CPU, VISIBLE, SlotName, visible_devices
from workers.runtime.work import JobFailed

PYTHON: Final = (sys.executable, "-I", "-m")  # isolated: nothing in the job's folder or environment is imported
RANKS: Final = ("torch.distributed.run", "--standalone", "--nproc-per-node")
#: what `-I` does, for ranks, whose command is torchrun's
ISOLATED: Final = {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}
OOM_COUNTER: Final = Path("/sys/fs/cgroup/memory.events")


class ForgeProcess:
    """A running forge."""

    def __init__(self, child: "subprocess.Popen[bytes]", *, ranks: int) -> None:
        self.pid = child.pid
        self._child = child
        self._ranks = ranks
        self._ooms = _oom_kills()

    @classmethod
    def start(
        cls, module: str, spec: ForgeSpec, *, folder: Path, log: Path, slots: Sequence[SlotName], locks: Sequence[int]
    ) -> "ForgeProcess":
        """Start `module` in the folder of its attempt, on these slots, whose `locks` it inherits; it writes to `log`.

        Raises:
            OSError: the disk is full, or the host has no room for a process.
        """
        path = folder / "spec.json"
        write_private(path, spec.model_dump_json())
        ranks = len([name for name in slots if name.gpu_class != CPU]) or 1
        env = visible_devices(slots, inherited=passed_on([VISIBLE]).get(VISIBLE))
        written = open_log(log)
        try:
            child = subprocess.Popen(
                [*command(module, ranks=ranks), str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                env={**env, **ISOLATED} if ranks > 1 else env,
                cwd=folder,
                start_new_session=True,
                pass_fds=tuple(locks),
            )
        finally:
            os.close(written)
        Note(process=Identity.of(child.pid), worker=Identity.of(os.getpid())).write(folder)
        return cls(child, ranks=ranks)

    async def messages(self) -> AsyncIterator[Message]:
        """What it says, until its pipe closes.

        Raises:
            JobFailed: it said what is no message.
        """
        assert self._child.stdout is not None
        reader = asyncio.StreamReader(limit=LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._child.stdout
        )
        try:
            while line := await reader.readline():
                yield MESSAGE.validate_json(line)
        except ValueError as error:  # pydantic's and asyncio's: no message of ours, or too long a line
            told = JobError(code="forge_protocol", title="The forge wrote something that is no message")
            raise JobFailed(told) from error
        finally:
            transport.close()

    async def ended(self) -> None:
        """Wait until the process has ended; what it started may be there still."""
        await exited(self.pid)

    def signal(self, number: signal.Signals) -> list[int]:
        """Signal every process of the forge; the leaders of their groups."""
        leaders = [*self._ranks_alive(), self.pid]
        for leader in leaders:
            signal_group(leader, number)
        return leaders

    async def finish(self) -> int:
        """SIGKILL what is left, and wait until nothing of it runs any more; the exit status."""
        leaders = self.signal(signal.SIGKILL)
        await asyncio.gather(*map(exited, leaders))
        status = self._child.wait()
        assert self._child.stdin is not None
        self._child.stdin.close()
        return status

    def death(self, status: int) -> JobFailed:
        """The end of an attempt whose forge ended without a word: its own doing, or somebody else's."""
        if _oom_kills() > self._ooms:
            return _died("out_of_memory", "The host ran out of memory")
        if status == -signal.SIGKILL:
            return _died("forge_killed", "The process was killed from outside", lost=True)
        if status == EXIT_STOPPED:
            return _died("forge_stopped", "The process was told to stop from outside", lost=True)
        return _died("forge_crashed", "The process died", detail=f"exit status {status}")

    def _ranks_alive(self) -> list[int]:
        if self._ranks == 1:
            return []
        with suppress(psutil.Error):
            return [child.pid for child in psutil.Process(self.pid).children(recursive=True) if _leads(child.pid)]
        return []


def command(module: str, *, ranks: int) -> list[str]:
    """How a forge is started, but for the path of its spec."""
    if ranks == 1:
        return [*PYTHON, module]
    return [*PYTHON, *RANKS, str(ranks), "-m", module]


def _died(code: str, title: str, *, detail: str = "", lost: bool = False) -> JobFailed:
    return JobFailed(JobError(code=code, title=title, detail=detail, retryable=True), lost=lost)


def _leads(pid: int) -> bool:
    with suppress(ProcessLookupError):
        return os.getpgid(pid) == pid
    return False


def _oom_kills() -> int:
    """Processes of this container that the kernel has killed for memory; 0 where it does not say."""
    with suppress(OSError, ValueError):
        for line in OOM_COUNTER.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
