"""How much memory a piece of work takes at its highest point, beyond what was held before it."""

import ctypes
import gc
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import torch

_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs: the peak resident set size begins anew


class Peak:
    """`with Peak(device) as peak: …`, then `peak.bytes`.

    On GPUs: the most that torch had allocated (`torch.cuda.max_memory_allocated`) above what it held at the beginning,
    the sum of all that are visible. On a CPU: the highest resident set of the process (`VmHWM`, reset through
    `/proc/self/clear_refs`) above that at the beginning; where the kernel has no such reset, as far as the highest of
    the process's whole life (`ru_maxrss`) is above, which an earlier peak can be. Freed memory is handed back to the
    system first, so that it is not used again unseen.
    """

    def __init__(self, device: str) -> None:
        self.bytes = 0
        self._cuda = device == "cuda"
        self._before = 0

    def __enter__(self) -> Self:
        gc.collect()
        if self._cuda:
            torch.cuda.empty_cache()
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)
            self._before = _on_all(torch.cuda.memory_allocated)
        else:
            _trim()
            _reset_peak()
            self._before = psutil.Process().memory_info().rss
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        highest = _on_all(torch.cuda.max_memory_allocated) if self._cuda else _highest()
        self.bytes = max(0, highest - self._before)


def _on_all(figure: Callable[[int], int]) -> int:
    return sum(figure(device) for device in range(torch.cuda.device_count()))


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return


def _highest() -> int:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
