"""A spare process waits for its model, and leaves when nobody will give it one."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from shared.contracts.engine import EngineConfig
from tests.support.polling import wait_until
from tests.workers.engine.conftest import ENVIRONMENT, YARD_TINY
from tests.workers.engine.running import RunningEngine
from tests.workers.engine.test_life import gone

COMMAND = [sys.executable, "-m", "workers.engine", "--spare"]


@pytest.fixture
def start_spare():
    """Starts a spare process; it is killed at the end."""
    with ExitStack() as stack:

        def start() -> subprocess.Popen[bytes]:
            spare = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
            stack.enter_context(spare)
            stack.callback(spare.kill)
            return spare

        yield start


class TestSpare:
    def test_it_becomes_the_engine_it_is_told_about(self, start_spare, tmp_path):
        spare = start_spare()
        config = EngineConfig(
            engine_id="late",
            model_path=YARD_TINY,
            models=("yard-tiny",),
            uds=tmp_path / "socket",
            log=tmp_path / "log",
            parent_pid=os.getpid(),
        )
        (tmp_path / "config.json").write_text(config.model_dump_json())
        transport = httpx.HTTPTransport(uds=str(config.uds))
        with httpx.Client(transport=transport, base_url="http://engine", timeout=60) as client:
            # Given one that has done its imports
            assert spare.stdin is not None
            assert spare.stderr is not None
            assert json.loads(spare.stderr.readline())["event"] == "spare_ready"
            # When it is told which engine it is
            started = time.monotonic()
            spare.stdin.write(f"{tmp_path / 'config.json'}\n".encode())
            spare.stdin.flush()
            engine = RunningEngine(config, client, spare, log := tmp_path / "log").wait_ready()
            # Then it serves without the seconds that imports take
            assert time.monotonic() - started < 4  # 0.4 s on an idle host
            assert engine.complete(prompt="x", max_tokens=2)["finish_reason"] == "length"
            events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
            assert events == ["starting", "loaded", "ready"]
            assert engine.pid == spare.pid
            # And without the libraries that a forge needs beside it: 1 s and 140 MB
            assert "/sklearn/" not in Path(f"/proc/{spare.pid}/maps").read_text()

    def test_it_leaves_when_its_worker_closes_the_pipe(self, start_spare):
        spare = start_spare()
        assert spare.stdin is not None
        spare.stdin.close()
        assert spare.wait(timeout=60) == 0

    def test_it_ends_with_its_worker_even_before_it_has_imported_anything(self):
        start = f"import subprocess; spare = subprocess.Popen({COMMAND!r}, stdin=subprocess.PIPE)"
        program = f"{start}; print(spare.pid, flush=True); spare.wait()"
        worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=ENVIRONMENT)
        with worker:
            assert worker.stdout is not None
            spare = int(worker.stdout.readline())
            worker.kill()
            wait_until(lambda: gone(spare), timeout=3, what="the spare is gone")
