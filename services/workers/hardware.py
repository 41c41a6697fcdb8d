"""What a host is made of, asked of the driver. Talks to a process: never inside a transaction."""

import importlib
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from services.workers.types import Gpu

QUERY_S = 10.0
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")


def gpu() -> Gpu | None:
    """The host's first NVIDIA GPU; None when there is none, or its driver does not answer."""
    try:
        told = subprocess.run(_QUERY, capture_output=True, text=True, timeout=QUERY_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return parse(told)


def parse(told: str) -> Gpu | None:
    """The first line of nvidia-smi's CSV `name, memory.total`: MiB, or `[N/A]` where it is shared (Jetson)."""
    for line in told.splitlines():
        model, _, memory = (part.strip() for part in line.rpartition(","))
        if model:
            return Gpu(model, int(memory) * 2**20 if memory.isdecimal() else None)
    return None


@dataclass(frozen=True)
class GpuFigures:
    """One device as NVML sees it now, whoever uses it."""

    index: int
    memory_used_bytes: int
    memory_total_bytes: int
    utilisation: float | None  #: share of the last moments (1/6 to 1 s) in which a kernel ran; None where unknown


def gpu_figures(nvml: Any = None) -> list[GpuFigures]:
    """Memory and utilisation of every NVIDIA GPU (under 1 ms a device); empty without NVML or its Python package.

    `nvml` is the module `pynvml` of nvidia-ml-py, loaded here when none is given.
    """
    try:
        nvml = nvml or importlib.import_module("pynvml")
        nvml.nvmlInit()  # counted by NVML itself: repeating it is cheap
    except ImportError:
        return []
    except nvml.NVMLError:
        return []
    return [_figures(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]


def utilisation(devices: Collection[int], *, seen: Sequence[GpuFigures]) -> float | None:
    """The mean utilisation of these devices, 0 to 1; None when none of them says."""
    told = [gpu.utilisation for gpu in seen if gpu.index in devices and gpu.utilisation is not None]
    return round(sum(told) / len(told), 4) if told else None


def _figures(nvml: Any, index: int) -> GpuFigures:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except nvml.NVMLError:  # a GPU that is cut in slices (MIG) does not say
        busy = None
    return GpuFigures(index, int(memory.used), int(memory.total), busy)
