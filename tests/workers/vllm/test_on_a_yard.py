"""A whole yard that serves with vLLM: a job, a chat, an engine killed under a job, and one that came back."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from tests.support.guarded import gone
from tests.support.polling import wait_until
from tests.support.yards import RunningYard, yards
from tests.workers.vllm.conftest import STARTS_S

LINES = 100


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningYard]:
    with yards(tmp_path_factory.mktemp("yard")) as start:
        yield start(
            engine="vllm",
            engine_threads=1,
            vllm_args=["--enforce-eager"],
            engine_start_s=STARTS_S,
            place_wait_s=STARTS_S,
            engine_spares=0,
        )


def submit(yard: RunningYard, *prompts: str) -> str:
    spec = {"model": "yard-tiny", "prompts": prompts, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    with yard.client() as client:
        return str(client.post("/v1/jobs", json={"kind": "inference", "spec": spec}).raise_for_status().json()["id"])


def finished(yard: RunningYard, job: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        with yard.client() as client:
            found: dict[str, Any] = client.get(f"/v1/jobs/{job}", params={"wait": 10}).raise_for_status().json()
        return found if found["state"] in {"succeeded", "failed"} else None

    found = wait_until(ended, timeout=2 * STARTS_S, what="the job has ended")
    assert found["state"] == "succeeded", f"{found['error']}\n{yard.logs()}"
    return found


def server(yard: RunningYard) -> psutil.Process:
    """vLLM's API server."""
    worker = psutil.Process(yard.pids("worker")[0])
    [found] = [one for one in worker.children(recursive=True) if any("api_server" in word for word in one.cmdline())]
    return found


class TestYard:
    def test_jobs_and_chats_are_vllms_and_go_on_when_it_is_killed(self, yard: RunningYard) -> None:
        # Given an engine that was started for a job
        done = finished(yard, submit(yard, "def read("))
        assert done["usage"]["completion_tokens"] == 16
        with yard.client() as client:
            [engine] = client.get("/v1/workers").raise_for_status().json()["data"][0]["engines"]
            body = {"model": "yard-tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
            chat = client.post("/v1/chat/completions", json=body).raise_for_status().json()
        assert engine["kind"] == "vllm"
        assert chat["model"] == "yard-tiny"
        # When its server is killed under a job
        job = submit(yard, *(f"line {number}" for number in range(LINES)))
        victim = server(yard)
        family = [victim, *victim.children(recursive=True)]
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(finished, yard, job)
            victim.send_signal(signal.SIGKILL)
            wait_until(lambda: gone(family), timeout=3, what="nothing of it is left")
            # Then another one does the rest
            done = waiting.result()
        assert [line["index"] for line in done["results"]] == list(range(LINES))
        assert all(line["error"] is None for line in done["results"])
        assert server(yard).pid != victim.pid
