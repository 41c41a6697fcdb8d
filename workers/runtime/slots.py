"""Slots: one lock file for each device and pool of this host; whoever runs there holds it.

The worker takes its slots when it starts and keeps them; engines and forges inherit the descriptor, so the
kernel frees a slot only when everybody on it is gone. The file names the worker that holds it: who acquires a
lock that names another worker knows that this one and all that it started are dead, and takes back its jobs
at once.
"""

import fcntl
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from shared import ids
from shared.contracts.jobs import Pool

CPU = "cpu"
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class SlotName:
    """A device, and the pool when the device has one slot for each (`cpu0.serve`)."""

    device: int
    pool: Pool | None
    gpu_class: str

    def __str__(self) -> str:
        device = f"{CPU if self.gpu_class == CPU else 'gpu'}{self.device}"
        return f"{device}.{self.pool}" if self.pool else device

    def serves(self, pool: Pool) -> bool:
        """Whether work of `pool` may run here."""
        return self.pool in (None, pool)


def slot_names(gpu_class: str, *, devices: Iterable[int], pools: Iterable[Pool]) -> list[SlotName]:
    """The slots of a worker: a CPU serves both pools at once, a GPU holds one engine or one forge."""
    if gpu_class == CPU:
        return [SlotName(device, pool, gpu_class) for device in devices for pool in pools]
    return [SlotName(device, None, gpu_class) for device in devices]


def visible_devices(names: Iterable[SlotName], *, inherited: str | None) -> dict[str, str]:
    """What shows a process its GPUs and no others; `inherited` is our own CUDA_VISIBLE_DEVICES, if we have one."""
    ours = inherited.split(",") if inherited else None
    devices = [name.device for name in names if name.gpu_class != CPU]
    shown = ",".join(ours[device] if ours else str(device) for device in devices)
    return {VISIBLE: shown} if devices else {}


class Slots:
    """The locks of this worker. Not thread-safe: the runner's loop alone uses it."""

    def __init__(self, folder: Path, names: Sequence[SlotName]) -> None:
        self.names = tuple(names)
        self._folder = folder
        self._held: dict[SlotName, int] = {}
        self._lent: set[SlotName] = set()  # held by an engine that was adopted: its lock came from a worker before us

    @property
    def missing(self) -> list[SlotName]:
        """Slots that somebody else holds."""
        return [name for name in self.names if name not in self._held and name not in self._lent]

    def usable(self, pool: Pool) -> list[SlotName]:
        """Slots that this worker may run work of `pool` on, taken or not."""
        return [name for name in self.names if name.serves(pool) and name not in self.missing]

    def descriptors(self, names: Iterable[SlotName]) -> list[int]:
        """What a process on these slots inherits."""
        return [self._held[name] for name in names if name in self._held]

    def lend(self, names: Iterable[SlotName]) -> None:
        """These are held by an engine that this worker adopted."""
        self._lent.update(names)

    def regain(self, names: Iterable[SlotName]) -> None:
        """The adopted engine is gone; `acquire` takes the locks."""
        self._lent.difference_update(names)

    def acquire(self) -> set[UUID]:
        """Take what is free of the missing slots; the ids of the workers that held them before."""
        dead: set[UUID] = set()
        for name in self.missing:
            path = self._folder / f"{name}.lock"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            self._held[name] = descriptor
            dead |= _owners(descriptor)
        return dead

    def sign(self, owners: Sequence[UUID]) -> None:
        """Write who holds the slots: every id that this process has had. Done once the dead workers' jobs are back."""
        text = "\n".join(map(str, owners)).encode()
        for name in self.names:
            if name not in self.missing:
                _replace(self._folder / f"{name}.lock", text)

    def close(self) -> None:
        """Let go of every slot; a process that inherited a descriptor keeps its own."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()


def _owners(descriptor: int) -> set[UUID]:
    found = os.pread(descriptor, 4096, 0).decode(errors="replace").split()
    return {owner for text in found if (owner := ids.parse(text))}


def _replace(path: Path, content: bytes) -> None:
    """Rewrite in place: a rename would put a new inode beside the one that is locked."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
