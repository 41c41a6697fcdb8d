"""`python -m workers.engine CONFIG.json`: one engine, configured by one file (`shared.contracts.engine`).

`python -m workers.engine --spare` imports first and reads the file's path from stdin afterwards.
"""

import gc
import io
import os
import select
import sys
from pathlib import Path
from typing import NoReturn

from shared.contracts.engine import EngineConfig
from workers.engine import parallel
from workers.engine.life import die_with_parent
from workers.engine.log import log, start_logging

_SMALL_BYTES = 64 * 2**20  # below, one thread is faster than two: 1,830 against 1,300 tokens/s on yard-tiny
_USAGE = "usage: python -m workers.engine CONFIG.json | --spare"


def main() -> None:
    """Start the engine and leave with its exit status."""
    if len(sys.argv) != 2:
        sys.exit(_USAGE)
    if sys.argv[1] == "--spare":
        _wait_as_spare()
    else:
        _become(Path(sys.argv[1]))


def _wait_as_spare() -> None:
    """Spend the seconds of imports now, and become an engine when told which; leave when nobody will tell."""
    die_with_parent(os.getppid())
    if _nobody_writes():  # the worker had died before the line above
        sys.exit(0)
    _prepare_environment()
    gc.disable()
    from workers.engine.spare import rehearse  # noqa: PLC0415 - seconds of imports: after the guard and the environment

    rehearse()
    gc.freeze()
    start_logging("spare")
    log("spare_ready", pid=os.getpid())
    line: bytes = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        sys.exit(0)
    _become(Path(os.fsdecode(line.rstrip(b"\n"))))


def _nobody_writes() -> bool:
    pipe = sys.stdin.buffer
    assert isinstance(pipe, io.BufferedReader)
    return bool(select.select([pipe], [], [], 0)[0]) and not pipe.peek(1)


def _become(path: Path) -> NoReturn:
    config = EngineConfig.model_validate_json(path.read_bytes())
    if config.parent_pid is not None:
        die_with_parent(config.parent_pid)
    if config.log is not None:
        with config.log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
    rank = parallel.Rank.of_environment(config)
    start_logging(config.engine_id, rank=rank.number)
    log("starting", pid=os.getpid(), model=config.models[0])
    threads = config.threads or _threads_for(config)
    _prepare_environment(threads)
    ranks = parallel.start_others(config) if rank.leads and not rank.under_torchrun else parallel.Ranks()

    gc.disable()  # until the model is loaded: 1.4 of 5.9 s of CPU for the imports below went to collections
    # Seconds of imports: after the guard against a dead parent, and after the environment that torch reads.
    from workers.engine.process import follow, run  # noqa: PLC0415

    status = run(config, rank, ranks, threads=threads) if rank.leads else follow(config, rank, threads=threads)
    log("stopped", status=status)
    sys.stderr.flush()
    os._exit(status)  # the generation thread and torch's pools need no farewell


def _prepare_environment(threads: int | None = None) -> None:
    """What torch, OpenMP and transformers read when they are imported; written here, read nowhere in our code."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "critical",
        "TQDM_DISABLE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads starve their neighbours where cores are shared
        "NCCL_GRAPH_MIXING_SUPPORT": "0",  # transformers' wish for CUDA graphs with collectives in them
    }
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    # transformers imports scikit-learn where it finds it, for one kind of generation that is not ours: 1 s and 140 MB
    sys.modules["sklearn"] = None  # type: ignore[assignment]


def _threads_for(config: EngineConfig) -> int | None:
    if sum(file.stat().st_size for file in config.model_path.glob("*.safetensors")) < _SMALL_BYTES:
        return 1
    return max(1, len(os.sched_getaffinity(0)) // config.tensor_parallel) if config.tensor_parallel > 1 else None


if __name__ == "__main__":
    main()
