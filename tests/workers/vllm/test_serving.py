"""yard-tiny in vLLM: OpenAI's answers over a Unix socket, adapters at run time, and the figures that a worker reads."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared.contracts.engine import EngineState
from tests.support.guarded import NAME, GuardedServer
from tests.workers.engine.plain import Plain
from tests.workers.vllm.checkpoints import adapter, merged

PROMPT = "def read_lines(path):\n"
GREEDY = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0, "ignore_eos": True}


class TestAnswers:
    def test_they_are_those_of_plain_generation(self, engine: GuardedServer, plain: Plain) -> None:
        answer = engine.complete(**GREEDY)
        assert answer["text"] == plain.complete(PROMPT, 16)
        assert answer["usage"]["completion_tokens"] == 16

    def test_a_stream_says_the_same_and_ends_with_its_usage(self, engine: GuardedServer) -> None:
        body = {"model": NAME, "stream": True, "stream_options": {"include_usage": True}} | GREEDY
        with engine.client.stream("POST", "/v1/completions", json=body) as response:
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        assert lines.pop() == "[DONE]"
        *chunks, last = map(json.loads, lines)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == engine.complete(**GREEDY)["text"]
        assert last["usage"]["completion_tokens"] == 16
        assert last["model"] == NAME

    def test_a_chat_may_ask_for_a_schema(self, engine: GuardedServer) -> None:
        schema = {"type": "string", "enum": ["left", "right"]}  # leaves no room for a small model's white space
        body: dict[str, Any] = {
            "model": NAME,
            "messages": [{"role": "user", "content": "which side?"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "side", "schema": schema}},
            "max_tokens": 60,
            "seed": 1,
        }
        answer = engine.client.post("/v1/chat/completions", json=body).raise_for_status().json()
        assert json.loads(answer["choices"][0]["message"]["content"]) in {"left", "right"}

    def test_a_line_of_a_batch_may_say_that_it_comes_later(self, engine: GuardedServer) -> None:
        with ThreadPoolExecutor(24) as threads:
            asked = [GREEDY | {"priority": number % 3} for number in range(24)]
            answers = list(threads.map(lambda body: engine.complete(**body)["text"], asked))
        assert len(set(answers)) == 1

    def test_a_prompt_that_is_too_long_is_refused(self, engine: GuardedServer) -> None:
        refused = engine.client.post("/v1/completions", json={"model": NAME, "prompt": "word " * 600})
        assert refused.status_code == 400

    def test_nobody_is_served_without_the_token(self, engine: GuardedServer) -> None:
        refused = engine.client.post("/v1/completions", json={"model": NAME}, headers={"authorization": "Bearer x"})
        assert refused.status_code == 401
        assert "secret" not in " ".join(engine.server.cmdline())


class TestFigures:
    def test_they_are_an_engines(self, engine: GuardedServer) -> None:
        before = engine.stats()
        engine.complete(**GREEDY)
        stats = engine.stats()
        assert stats.state is EngineState.READY
        assert stats.context_length == 512
        assert stats.tokens_generated == before.tokens_generated + 16
        assert (stats.running, stats.waiting) == (0, 0)
        assert 0 < stats.kv_blocks_free <= stats.kv_blocks_total
        assert stats.memory_bytes > 100 * 2**20


class TestAdapters:
    @pytest.fixture
    def loaded(self, engine: GuardedServer, tmp_path: Path) -> Iterator[str]:
        body = {"lora_name": "changed", "lora_path": str(adapter(tmp_path / "adapter"))}
        engine.client.post("/v1/load_lora_adapter", json=body).raise_for_status()
        yield "changed"
        engine.client.post("/v1/unload_lora_adapter", json={"lora_name": "changed"})

    def test_one_is_loaded_and_unloaded_while_the_base_goes_on(self, engine: GuardedServer, loaded: str) -> None:
        base = engine.complete(**GREEDY)["text"]
        changed = engine.complete(model=loaded, **GREEDY)["text"]
        assert changed != base
        assert engine.stats().adapters == (loaded,)
        engine.client.post("/v1/unload_lora_adapter", json={"lora_name": loaded}).raise_for_status()
        assert engine.stats().adapters == ()
        assert engine.client.post("/v1/completions", json={"model": loaded, "prompt": "x"}).status_code == 404
        assert engine.complete(**GREEDY)["text"] == base

    def test_two_answer_at_once_each_by_its_own_scale(self, engine: GuardedServer, tmp_path: Path) -> None:
        scales = {"plain": 16 / 8, "stabilised": 16 / 8**0.5}  # alpha/r, and alpha/√r: arXiv 2312.03732
        expected = {}
        for name, scale in scales.items():
            lora = adapter(tmp_path / name, seed=len(name), use_rslora=name == "stabilised")
            body = {"lora_name": name, "lora_path": str(lora)}
            engine.client.post("/v1/load_lora_adapter", json=body).raise_for_status()
            expected[name] = Plain(merged(tmp_path / f"{name}-merged", lora, scale=scale)).complete(PROMPT, 16)
        assert set(engine.stats().adapters) == set(scales)
        with ThreadPoolExecutor(8) as threads:
            asked = [*scales, NAME] * 8
            answers = list(threads.map(lambda name: engine.complete(**GREEDY | {"model": name})["text"], asked))
        told = {name: {answer for asked_for, answer in zip(asked, answers, strict=True) if asked_for == name}
                for name in scales}  # fmt: skip
        assert told == {name: {text} for name, text in expected.items()}
        assert set(engine.stats().adapters_idle_s) == set(scales)
        for name in scales:
            engine.client.post("/v1/unload_lora_adapter", json={"lora_name": name}).raise_for_status()

    def test_a_folder_that_is_no_adapter_is_refused(self, engine: GuardedServer, tmp_path: Path) -> None:
        refused = engine.client.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": str(tmp_path)})
        assert refused.status_code >= 400
        assert engine.stats().adapters == ()
