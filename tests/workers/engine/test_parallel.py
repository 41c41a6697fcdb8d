"""Two ranks generate what one process does, and neither outlives the other."""

import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import httpx
import psutil
import pytest
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

from shared.contracts.engine import EXIT_FAILED, EngineConfig
from tests.support.polling import wait_until
from tests.workers.engine.conftest import ENVIRONMENT, YARD_TINY
from tests.workers.engine.running import RunningEngine
from tests.workers.engine.test_life import gone
from workers.engine.model import load

PROMPT = "def read_lines(path):\n"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "size": {"enum": [1, 2, 3]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
GUIDED = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def engines(start_engine):
    """Started together, because each spends seconds on its imports."""
    started = SimpleNamespace(
        alone=start_engine(parent_pid=os.getpid()),
        pair=start_engine(parent_pid=os.getpid(), tensor_parallel=2, drain_s=30),
        orphaned=start_engine(by_worker=True, tensor_parallel=2),
    )
    for engine in (started.alone, started.pair, started.orphaned):
        engine.wait_ready()
    return started


def ranks(engine: RunningEngine) -> list[int]:
    """Process ids, the engine's own first."""
    children = psutil.Process(engine.pid).children()
    others = [child.pid for child in children if child.cmdline()[-1] == "/dev/stdin"]
    assert len(others) == engine.config.tensor_parallel - 1
    return [engine.pid, *others]


class TestSameTokens:
    @pytest.mark.parametrize(
        "asked",
        [
            {"temperature": 0, "ignore_eos": True},
            {"temperature": 1.0, "seed": 7, "ignore_eos": True},
            {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "seed": 11, "frequency_penalty": 0.5, "ignore_eos": True},
            {"temperature": 0.7, "seed": 3, "response_format": GUIDED},
        ],
        ids=["greedy", "sampled", "limited", "guided"],
    )
    def test_two_ranks_give_the_text_of_one_process(self, engines, asked):
        texts = {
            engine.complete(prompt=PROMPT, max_tokens=40, **asked)["text"] for engine in (engines.alone, engines.pair)
        }
        assert len(texts) == 1
        if "response_format" in asked:
            assert set(json.loads(texts.pop())) == {"name", "size"}

    def test_many_at_once_too(self, engines):
        asked = {"prompt": [f"number {number}" for number in range(16)], "max_tokens": 24, "seed": 5}
        answers = [engine.post("/v1/completions", **asked).json() for engine in (engines.alone, engines.pair)]
        texts = [[choice["text"] for choice in answer["choices"]] for answer in answers]
        assert texts[0] == texts[1]

    def test_what_needs_every_rank_and_is_not_generation_is_refused(self, engines):
        assert engines.pair.stats().modes == ("generate",)
        for path, body in (
            ("/v1/embeddings", {"model": "yard-tiny", "input": "x"}),
            ("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/x"}),
        ):
            answer = engines.pair.post_json(path, body)
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
            assert "tensor_parallel 1" in answer.json()["error"]["message"]

    def test_memory_is_that_of_both(self, engines):
        assert engines.pair.stats().memory_bytes > 1.5 * engines.alone.stats().memory_bytes


class TestHooks:
    def test_what_a_waiting_rank_waits_for_is_still_where_we_replace_it(self):
        body = inspect.getsource(ContinuousBatchingManager._generation_loop_body)
        assert "self._has_new_requests.wait(timeout=0.1)" in body


class TestRefusal:
    def test_kv_heads_that_do_not_divide_are_said_before_anything_is_loaded(self, tmp_path):
        config = EngineConfig(
            engine_id="odd", model_path=YARD_TINY, models=("m",), uds=tmp_path / "socket", tensor_parallel=3
        )
        with pytest.raises(ValueError, match="tensor_parallel 3 does not divide the model's 2 KV heads"):
            load(config)


@pytest.mark.faults
class TestEnds:
    def test_a_killed_worker_takes_every_rank_along(self, engines):
        """The kernel kills rank 0 with the worker, and the others with rank 0."""
        pids = ranks(engines.orphaned)
        engines.orphaned.process.kill()
        wait_until(lambda: all(map(gone, pids)), timeout=3, what="every rank is gone")

    def test_a_dead_rank_ends_the_engine_at_once(self, start_engine):
        engine = start_engine(parent_pid=os.getpid(), tensor_parallel=2).wait_ready()
        pids = ranks(engine)
        os.kill(pids[1], signal.SIGKILL)
        assert engine.process.wait(timeout=3) == EXIT_FAILED
        assert "rank_died" in engine.log.read_text()

    def test_a_signal_to_the_whole_group_drains_and_ends_every_rank(self, engines):
        """Last, because it takes the pair away."""
        engine, endings = engines.pair, []
        pids = ranks(engine)

        def stream() -> None:
            chunks = engine.stream("/v1/completions", prompt="x", max_tokens=60, ignore_eos=True)
            endings.append(chunks[-1]["choices"][0]["finish_reason"])

        reader = threading.Thread(target=stream)
        reader.start()
        wait_until(lambda: engine.stats().running == 1)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        reader.join()
        assert endings == ["length"]
        assert engine.process.wait(timeout=5) == 0
        assert all(map(gone, pids))
        assert "error" not in {json.loads(line)["level"] for line in engine.log.read_text().splitlines()}


class TestTorchrun:
    def test_ranks_that_torchrun_started_serve_and_end_cleanly(self, tmp_path):
        config = {"engine_id": "t", "model_path": str(YARD_TINY), "models": ["yard-tiny"], "tensor_parallel": 2}
        (tmp_path / "config.json").write_text(json.dumps(config | {"uds": str(tmp_path / "socket"), "threads": 1}))
        command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "workers.engine"]
        with (tmp_path / "log").open("wb") as log:
            torchrun = subprocess.Popen(
                [sys.executable, *command, str(tmp_path / "config.json")], env=ENVIRONMENT, stderr=log
            )
        transport = httpx.HTTPTransport(uds=str(tmp_path / "socket"))
        with torchrun, httpx.Client(transport=transport, base_url="http://engine") as client:
            try:
                wait_until(
                    lambda: (tmp_path / "socket").exists() and client.get("/health").status_code == 200, timeout=110
                )
                body = {"model": "yard-tiny", "prompt": "x", "max_tokens": 4, "ignore_eos": True}
                usage = client.post("/v1/completions", json=body).raise_for_status().json()["usage"]
                assert usage["completion_tokens"] == 4
                torchrun.terminate()
                torchrun.wait(timeout=10)
                stopped = [line for line in (tmp_path / "log").read_text().splitlines() if '"stopped"' in line]
                assert [json.loads(line)["status"] for line in stopped] == [0, 0]
            finally:
                torchrun.kill()
