"""A process that is timed: its lines of JSON with their seconds, and the most memory that it and its children held."""

import json
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

EVERY_S = 0.2
SMI = "nvidia-smi"
Hear = Callable[[int, dict[str, Any]], None]
QUERY = (SMI, "--query-gpu=index,memory.used", "--format=csv,noheader,nounits")


@dataclass
class Watched:
    """What a process did."""

    seconds: float = 0.0
    status: int | None = None  #: None: it was killed because its time was over
    lines: list[tuple[float, dict[str, Any]]] = field(default_factory=list)  #: of JSON; others go to the log alone
    host_bytes: int = 0  #: anonymous and shared pages, the most at once
    gpu_bytes: dict[int, int] = field(default_factory=dict)  #: of each device, what was taken before left out

    @property
    def last(self) -> dict[str, Any]:
        """The last object that it wrote."""
        return self.lines[-1][1] if self.lines else {}


def watch(
    command: Sequence[str], *, cwd: Path, env: dict[str, str], timeout_s: float, log: Path, hear: Hear | None = None
) -> Watched:
    """Run a command to its end. Its stdin is a pipe that stays open; what it writes to stderr goes to `log`.

    `hear` is called with the process's id and each object that it writes.
    """
    found = Watched()
    begun = time.perf_counter()
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        with _Devices() as devices:
            watching = threading.Thread(target=_memory, args=(process, found), daemon=True)
            watching.start()
            end = threading.Timer(timeout_s, _kill, args=(process.pid,))
            end.start()
            assert process.stdout is not None
            for line in process.stdout:
                _note(found, line, seconds=time.perf_counter() - begun, errors=log.with_suffix(".out"))
                if hear is not None and found.lines:
                    hear(process.pid, found.last)
            status = process.wait()
            found.seconds = time.perf_counter() - begun
            found.status = status if end.is_alive() else None
            end.cancel()
            watching.join()
        found.gpu_bytes = devices.taken()
    return found


def _note(found: Watched, line: str, *, seconds: float, errors: Path) -> None:
    with suppress(ValueError):
        told = json.loads(line)
        if isinstance(told, dict):
            found.lines.append((seconds, told))
            return
    with errors.open("a") as file:
        file.write(line)


def _memory(process: "subprocess.Popen[str]", found: Watched) -> None:
    while process.poll() is None:
        found.host_bytes = max(found.host_bytes, sum(_own(pid) for pid in _family(process.pid)))
        time.sleep(EVERY_S)


def _family(pid: int) -> list[int]:
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [pid, *(child.pid for child in parent.children(recursive=True))]
    return []


def _own(pid: int) -> int:
    """Bytes of a process that are not pages of a file."""
    with suppress(OSError, ValueError):
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return 1024 * sum(int(fields.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssShmem"))
    return 0


def _kill(pid: int) -> None:
    """The process and its children: torchrun's are in sessions of their own."""
    for member in _family(pid):
        with suppress(psutil.NoSuchProcess):
            psutil.Process(member).kill()


class _Devices:
    """The most memory taken on each GPU, as its driver tells five times a second; nothing where there is no GPU."""

    def __init__(self) -> None:
        self._most: dict[int, int] = defaultdict(int)
        self._before: dict[int, int] = {}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        if shutil.which(SMI):
            with suppress(subprocess.CalledProcessError):
                told = subprocess.run(QUERY, capture_output=True, text=True, check=True).stdout
                self._before = dict(map(_device, told.splitlines()))
                every = ["-lms", str(int(1000 * EVERY_S))]
                self._process = subprocess.Popen([*QUERY, *every], stdout=subprocess.PIPE, text=True)
                threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):
                index, taken = _device(line)
                self._most[index] = max(self._most[index], taken)

    def taken(self) -> dict[int, int]:
        return {index: most - self._before.get(index, 0) for index, most in self._most.items()}


def _device(line: str) -> tuple[int, int]:
    index, mebibytes = line.split(",")
    return int(index), int(mebibytes) << 20
