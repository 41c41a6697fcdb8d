"""Tensor parallelism: N processes that hold a part of every layer each and generate in step.

Rank 0 is the engine: it serves HTTP, owns the requests and tells the others of each (transformers' continuous batching
does). It starts ranks 1 to N-1 itself, as `python -m workers.engine` with torchrun's variables RANK, LOCAL_RANK and
WORLD_SIZE, and with the configuration on stdin. They meet through a file beside the socket, in a folder that is the
owner's alone: no port to choose, none for others to find. Decision 0009 says why that is not torchrun's agent; an
engine that torchrun has started (MASTER_ADDR is set) meets its own way and starts nobody.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from shared.contracts.engine import EngineConfig

_FAREWELL_S = 2  # what the others get between the end of generation and SIGKILL
_LOAD_TIMEOUT = timedelta(hours=2)  # ranks may read a large checkpoint at very different speeds


@dataclass(frozen=True, slots=True)
class Rank:
    """Which of the processes this one is."""

    number: int
    of: int
    under_torchrun: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process is the engine."""
        return self.number == 0

    @classmethod
    def of_environment(cls, config: EngineConfig) -> "Rank":
        """From torchrun's variables, the one place where they are read."""
        if config.tensor_parallel == 1:
            return cls(0, 1)
        environment = os.environ
        under_torchrun = "MASTER_ADDR" in environment
        rank = cls(int(environment.get("RANK", "0")), config.tensor_parallel, under_torchrun)
        if rank.of != int(environment.get("WORLD_SIZE", rank.of)):
            sys.exit(f"tensor_parallel is {rank.of}, and the world has {environment['WORLD_SIZE']} ranks")
        return rank


class Ranks:
    """The other ranks, as seen by rank 0, whose children they are."""

    def __init__(self, children: tuple[subprocess.Popen[bytes], ...] = (), met_at: Path | None = None) -> None:
        self._children = children
        self._met_at = met_at

    @property
    def pids(self) -> tuple[int, ...]:
        """Their process ids."""
        return tuple(child.pid for child in self._children)

    def watch(self, died: Callable[[int, int], object]) -> None:
        """Call `died(rank, status)` from a thread as soon as one ends."""
        for number, child in enumerate(self._children, start=1):

            def wait(number: int = number, child: subprocess.Popen[bytes] = child) -> None:
                died(number, child.wait())

            threading.Thread(target=wait, name=f"rank {number}", daemon=True).start()

    def end(self) -> None:
        """Wait until they are gone; they are killed if that takes long."""
        for child in self._children:
            try:
                child.wait(timeout=_FAREWELL_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self._met_at is not None:
            self._met_at.unlink(missing_ok=True)


def start_others(config: EngineConfig) -> Ranks:
    """Start ranks 1 to N-1. Call it from the main thread: they die with the thread that started them."""
    if config.tensor_parallel == 1:
        return Ranks()
    meeting_point = _meeting_point(config)
    meeting_point.unlink(missing_ok=True)
    os.environ |= _torchruns_variables(0, config)
    return Ranks(tuple(_start(config, number) for number in range(1, config.tensor_parallel)), meeting_point)


def join(config: EngineConfig, rank: Rank) -> None:
    """Meet the others. Blocks until all are there."""
    if rank.of == 1:
        return
    import torch.distributed as dist  # noqa: PLC0415 - seconds: children are started before

    cuda = config.device == "cuda"
    options: dict[str, Any] = {"backend": "nccl" if cuda else "gloo", "timeout": _LOAD_TIMEOUT}
    if cuda:
        import torch  # noqa: PLC0415

        torch.cuda.set_device(rank.number)
        options["device_id"] = torch.device("cuda", rank.number)
    if not rank.under_torchrun:
        options |= {"init_method": f"file://{_meeting_point(config)}", "rank": rank.number, "world_size": rank.of}
    dist.init_process_group(**options)


def least(config: EngineConfig, figure: int) -> int:
    """The smallest of what the ranks have each found out for themselves."""
    if config.tensor_parallel == 1:
        return figure
    import torch  # noqa: PLC0415 - see join

    found = torch.tensor(figure, device=config.device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN)
    return int(found)


def _start(config: EngineConfig, number: int) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-m", "workers.engine", "/dev/stdin"],
        stdin=subprocess.PIPE,
        env=os.environ | _torchruns_variables(number, config),
        pass_fds=config.lock_fds,
    )
    own = config.model_copy(update={"parent_pid": os.getpid(), "log": None})
    assert child.stdin is not None
    with child.stdin:
        child.stdin.write(own.model_dump_json().encode())
    return child


def _torchruns_variables(number: int, config: EngineConfig) -> dict[str, str]:
    variables = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(config.tensor_parallel)}
    if sys.platform == "linux":  # one host, and nobody else listens in
        variables |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return variables


def _meeting_point(config: EngineConfig) -> Path:
    return Path(f"{config.uds}.ranks")
