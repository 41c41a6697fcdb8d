"""A third engine is only a command line: a scripted server does a yard's work."""

import signal
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.support.guarded import SCRIPTED, gone
from tests.support.polling import wait_until
from tests.support.yards import RunningYard, yards

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LINE = [sys.executable, str(SCRIPTED), "--uds", "{uds}", "--name", "{served_name}", "--token", "{token}"]


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningYard]:
    with yards(tmp_path_factory.mktemp("third")) as start:
        yield start(
            engine="scripted",
            engine_commands={"scripted": [*LINE, "--answer", "as told", "--children", "1"]},
            vllm_python="/nowhere/bin/python",
            retry_base_s=0.1,
        )


def job(yard: RunningYard, *prompts: str, state: str = "succeeded") -> dict[str, Any]:
    """An inference job that has ended so. Its prompts are new: an engine is asked, not the response cache."""
    body = {"kind": "inference", "spec": {"model": "yard-tiny", "max_tokens": 8, "prompts": prompts}}
    with yard.client() as client:
        made = client.post("/v1/jobs", params={"wait": 30}, json=body)
        assert made.status_code in {200, 202}, made.text
        found: dict[str, Any] = made.json()
        if found["state"] not in {"succeeded", "failed"}:
            found = client.get(f"/v1/jobs/{found['id']}", params={"wait": 30}).json()
        assert found["state"] == state, f"{found['error']}\n{yard.logs()}"
        return found


def servers(yard: RunningYard) -> list[psutil.Process]:
    """The scripted servers of this yard, and what they started."""
    worker = psutil.Process(yard.pids("worker")[0])
    found = [one for one in worker.children(recursive=True) if str(SCRIPTED) in one.cmdline()]
    return [process for one in found for process in (one, *one.children(recursive=True))]


class TestScriptedEngine:
    def test_it_does_an_inference_job(self, yard: RunningYard) -> None:
        done = job(yard, "one", "two")
        assert [line["output"]["text"] for line in done["results"]] == ["as told", "as told"]

    def test_it_answers_a_chat(self, yard: RunningYard) -> None:
        body = {"model": "yard-tiny", "messages": [{"role": "user", "content": "hello"}]}
        with yard.client() as client:
            answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
        assert answer["choices"][0]["message"]["content"] == "as told"
        assert answer["model"] == "yard-tiny"

    def test_another_one_comes_when_it_dies(self, yard: RunningYard) -> None:
        job(yard, "three")
        before = servers(yard)
        assert len(before) == 2
        before[0].send_signal(signal.SIGKILL)
        wait_until(lambda: gone(before), timeout=3, what="nothing is left")
        job(yard, "four")
        assert len(servers(yard)) == 2

    def test_nothing_of_it_outlives_its_worker(self, yard: RunningYard) -> None:
        job(yard, "five")
        before = servers(yard)
        assert before
        old = yard.kill("worker")
        wait_until(lambda: gone(before), timeout=3, what="nothing is left")
        yard.await_restart("worker", old=old)
        job(yard, "six")


class TestMissingEngine:
    def test_a_job_that_needs_it_ends_with_advice(self, yard: RunningYard) -> None:
        with yard.client() as client:
            client.patch("/v1/models/yard-tiny", json={"serving": {"engine": "vllm"}}).raise_for_status()
        error = job(yard, "seven", state="failed")["error"]
        assert error["code"] == "engine_unavailable"
        assert "make setup-vllm" in error["title"]
