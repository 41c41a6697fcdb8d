"""`python -m workers.engine CONFIG.json`: one engine, configured by one file (`shared.contracts.engine`)."""

import gc
import os
import sys
from pathlib import Path

from shared.contracts.engine import EngineConfig
from workers.engine.life import die_with_parent
from workers.engine.log import log, start_logging

_SMALL_BYTES = 64 * 2**20  # below, one thread is faster than two: 1,830 against 1,300 tokens/s on yard-tiny


def main() -> None:
    """Start the engine and leave with its exit status."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m workers.engine CONFIG.json")
    config = EngineConfig.model_validate_json(Path(sys.argv[1]).read_bytes())
    if config.parent_pid is not None:
        die_with_parent(config.parent_pid)
    start_logging(config.engine_id)
    _prepare_environment(config)
    log("starting", pid=os.getpid(), model=config.models[0])

    gc.disable()  # until the model is loaded: 1.4 of 5.9 s of CPU for the imports below went to collections
    # Seconds of imports: after the guard against a dead parent, and after the environment that torch reads.
    from workers.engine.process import run  # noqa: PLC0415

    status = run(config)
    log("stopped", status=status)
    sys.stderr.flush()
    os._exit(status)  # the generation thread and torch's pools need no farewell


def _prepare_environment(config: EngineConfig) -> None:
    """What torch, OpenMP and transformers read when they are imported; written here, read nowhere in our code."""
    threads = config.threads or (1 if _weight_bytes(config.model_path) < _SMALL_BYTES else None)
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "critical",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads starve their neighbours where cores are shared
    }
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _weight_bytes(model_path: Path) -> int:
    return sum(file.stat().st_size for file in model_path.glob("*.safetensors"))


if __name__ == "__main__":
    main()
