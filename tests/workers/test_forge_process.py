"""Forge processes by themselves: torchrun's ranks start, speak through one of them, and go together."""

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from shared.contracts.forge import DoneMessage, ForgeSpec, Message, ProgressMessage
from workers.runtime.forge_process import ForgeProcess, command
from workers.runtime.slots import SlotName

PROBE = "workers.forge.probe"


def slots(count: int) -> list[SlotName]:
    return [SlotName(device, None, "h200") for device in range(count)]


def start(folder: Path, *, steps: int, devices: int) -> ForgeProcess:
    out = folder / "out"
    out.mkdir()
    spec = ForgeSpec(
        spec={"steps": steps, "step_seconds": 0.05, "pool": "forge"},
        inputs=folder,
        out=out,
        fingerprint="probe",
        parent_pid=os.getpid(),
    )
    return ForgeProcess.start(PROBE, spec, folder=folder, log=folder / "log", slots=slots(devices), locks=())


def children(process: ForgeProcess) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


class TestCommand:
    def test_one_device_needs_no_torchrun(self) -> None:
        assert command(PROBE, ranks=1)[1:] == ["-I", "-m", PROBE]

    def test_several_devices_are_ranks(self) -> None:
        told = command(PROBE, ranks=4)[1:]
        assert told == ["-I", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "-m", PROBE]


@pytest.mark.slow
@pytest.mark.timeout(60)
class TestRanks:
    def test_one_of_them_speaks(self, tmp_path: Path) -> None:
        async def listen() -> list[Message]:
            process = start(tmp_path, steps=2, devices=2)
            said = [message async for message in process.messages()]
            assert await process.finish() == 0
            return said

        said = asyncio.run(listen())
        assert [message for message in said if isinstance(message, DoneMessage)] == [DoneMessage()]
        assert [message.done for message in said if isinstance(message, ProgressMessage)] == [1, 2]

    def test_none_outlives_the_forge(self, tmp_path: Path) -> None:
        async def end() -> list[psutil.Process]:
            process = start(tmp_path, steps=10_000, devices=2)
            await first(process)
            ranks = children(process)
            assert [os.getpgid(rank.pid) == rank.pid for rank in ranks] == [True, True]
            assert await process.finish() == -signal.SIGKILL
            return ranks

        assert all(map(gone, asyncio.run(end())))


async def first(process: ForgeProcess) -> Message:
    async for message in process.messages():
        return message
    raise AssertionError((Path(psutil.Process(process.pid).cwd()) / "log").read_text())
