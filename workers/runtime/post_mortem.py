"""Why an engine process died, as far as its exit status and the end of its log tell."""

import os
import signal
from pathlib import Path
from typing import Final

from shared.contracts.engine import EXIT_OOM
from shared.contracts.jobs import JobError

OUT_OF_MEMORY: Final = "engine_out_of_memory"
TAIL_BYTES = 16 * 1024

#: what the tail of a log gives away → code, title, whether another try may help; the first that is found counts
CAUSES: Final = (
    ("OutOfMemoryError", OUT_OF_MEMORY, "The model and its KV cache do not fit the device", True),
    ("CUDA out of memory", OUT_OF_MEMORY, "The model and its KV cache do not fit the device", True),
    ("No available memory for the cache blocks", OUT_OF_MEMORY, "No device memory is left for the KV cache", True),
    ("KV cache is needed, which is larger than", OUT_OF_MEMORY, "One sequence does not fit the KV cache", True),
    ("MemoryError", OUT_OF_MEMORY, "The host ran out of memory while the engine started", True),
    ("can't allocate memory", OUT_OF_MEMORY, "The host ran out of memory while the engine started", True),
    ("less than desired GPU memory utilization", OUT_OF_MEMORY, "Others hold the device's memory", True),  # vLLM
    ("CUDA error", "engine_device_failed", "The engine lost its device", True),
    ("No CUDA GPUs", "engine_device_failed", "The engine sees no device", True),
    ("load_failed", "engine_load_failed", "The engine could not load the model", False),
)


class EngineFailed(Exception):
    """An engine did not start, or died."""

    def __init__(self, error: JobError) -> None:
        self.error = error
        super().__init__(error.title)

    @property
    def out_of_memory(self) -> bool:
        """Whether a smaller batch or more devices may help."""
        return self.error.code == OUT_OF_MEMORY


def cause(words: str, *, status: int | None) -> JobError:
    """What the last words of a log and the exit status (negative: the signal) mean."""
    if status == EXIT_OOM:
        title = "The model and its KV cache do not fit the device"
        return JobError(code=OUT_OF_MEMORY, title=title, detail=f"exit status {status}", retryable=True)
    for sign, code, title, retryable in CAUSES:
        if sign in words:
            return JobError(code=code, title=title, detail=f"exit status {status}", retryable=retryable)
    if status == -signal.SIGKILL:
        title = "The engine was killed, perhaps because the host ran out of memory"
        return JobError(code="engine_killed", title=title, retryable=True)
    return JobError(code="engine_failed", title="The engine died", detail=f"exit status {status}", retryable=True)


def last_words(log: Path, *, after: int) -> str:
    """The end of what a log holds beyond its first `after` bytes."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(after, end - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
