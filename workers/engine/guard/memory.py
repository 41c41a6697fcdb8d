"""How much memory a tree of processes holds: on the host, or on its GPUs."""

import ctypes
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

_KIB = 1024
_MOST_PROCESSES = 256  # of one device
_UNKNOWN = 2**64 - 1  # NVML_VALUE_NOT_AVAILABLE


def resident(pids: Iterable[int]) -> int:
    """Bytes of host memory; what processes share is counted once (PSS)."""
    return sum(_proportional(pid) for pid in pids)


def _proportional(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * _KIB
    return 0


class DeviceMemory:
    """What a server holds on its GPUs, as NVML tells. Made before the server holds any; 0 where there is no NVML.

    In a container the driver names processes by the host's pids, or not at all. Then it is what the server's devices
    hold more than they did at first.
    """

    def __init__(self, devices: Collection[int] | None) -> None:
        self._nvml = _Nvml.load()
        self._devices = self._nvml.handles(devices) if self._nvml else []
        self._before = self._used()

    def held(self, pids: Collection[int]) -> int:
        """Bytes that these processes hold."""
        if self._nvml is None:
            return 0
        listed = [process for device in self._devices for process in self._nvml.processes(device)]
        told = [process.used for process in listed if process.pid in pids and process.used != _UNKNOWN]
        return sum(told) if told else max(0, self._used() - self._before)

    def _used(self) -> int:
        return sum(self._nvml.used(device) for device in self._devices) if self._nvml else 0


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Nvml:
    """The driver's library. A question that it refuses is answered with nothing."""

    def __init__(self, library: Any) -> None:
        self._library = library

    @classmethod
    def load(cls) -> Self | None:
        """The library, if there is a driver."""
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL("libnvidia-ml.so.1")
            return cls(library) if library.nvmlInit_v2() == 0 else None
        return None

    def handles(self, devices: Collection[int] | None) -> list[ctypes.c_void_p]:
        """These devices; None: every one."""
        count = ctypes.c_uint()
        self._library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        found = []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            wanted = devices is None or index in devices
            if wanted and self._library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
                found.append(handle)
        return found

    def used(self, device: ctypes.c_void_p) -> int:
        """Bytes that are taken on a device, whoever took them."""
        memory = _Memory()
        status = self._library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
        return int(memory.used) if status == 0 else 0

    def processes(self, device: ctypes.c_void_p) -> list[_Process]:
        """Who computes on a device."""
        count, listed = ctypes.c_uint(_MOST_PROCESSES), (_Process * _MOST_PROCESSES)()
        status = self._library.nvmlDeviceGetComputeRunningProcesses_v3(device, ctypes.byref(count), listed)
        return list(listed[: count.value]) if status == 0 else []
