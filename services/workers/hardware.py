"""What a host is made of, asked of the driver. Talks to a process: never inside a transaction."""

import subprocess

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
