"""A real engine on yard-tiny, once a module, and others that are started only to be ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.contracts.engine import EngineConfig
from tests.workers.engine.running import RunningEngine

STAND_IN_WORKER = Path(__file__).with_name("stand_in_worker.py")
ROOT = Path(__file__).parents[3]
YARD_TINY = ROOT / "infra" / "models" / "yard-tiny"
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}  # an engine needs nothing from ours


StartEngine = Callable[..., RunningEngine]


@pytest.fixture(scope="module")
def start_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartEngine]:
    """Starts an engine without waiting for it: `start_engine(threads=2)`. What still runs at the end is killed.

    With `by_worker`, `process` is a stand-in for a worker, and the engine is its child.
    """
    started: list[RunningEngine] = []

    def start(*, by_worker: bool = False, **settings: Any) -> RunningEngine:
        folder = tmp_path_factory.mktemp("engine")
        config = EngineConfig.model_validate(
            {
                "engine_id": folder.name,
                "model_path": YARD_TINY,
                "models": ("yard-tiny", "tiny"),
                "uds": folder / "socket",
                "threads": 1,
            }
            | settings
        )
        (folder / "config.json").write_text(config.model_dump_json())
        program = [str(STAND_IN_WORKER)] if by_worker else ["-m", "workers.engine"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, *program, folder / "config.json"], stderr=log, env=ENVIRONMENT)
        client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(config.uds), verify=False),  # no TLS here: 23 ms less
            base_url="http://engine",
            headers={} if config.token is None else {"authorization": f"Bearer {config.token}"},
            timeout=60,
        )
        started.append(RunningEngine(config, client, process, folder / "log"))
        return started[-1]

    yield start
    for engine in started:
        engine.client.close()
        with suppress(ProcessLookupError):
            os.kill(engine.pid or engine.process.pid, signal.SIGKILL)
        engine.process.kill()
        engine.process.wait()


@pytest.fixture(scope="module")
def engine(start_engine: StartEngine) -> RunningEngine:
    return start_engine(parent_pid=os.getpid(), max_in_flight=8, num_blocks=70).wait_ready()
