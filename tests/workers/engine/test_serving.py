"""One real engine over its socket."""

import asyncio
import json
import stat
import threading

import httpx
import pytest

from tests.support.polling import wait_until
from tests.workers.engine.running import RunningEngine

PROMPT = "def read_lines(path):\n"


SAMPLED = {"prompt": PROMPT, "max_tokens": 24, "temperature": 1.0, "top_p": 0.95, "ignore_eos": True}


def idle(engine: RunningEngine) -> bool:
    stats = engine.stats()
    return stats.running == stats.waiting == 0 and stats.kv_blocks_free == stats.kv_blocks_total


class TestGreedy:
    def test_same_prompt_same_text(self, engine):
        asked = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0}
        assert engine.complete(**asked)["text"] == engine.complete(**asked)["text"]

    def test_tokens_and_text_are_the_same_prompt(self, engine):
        asked = {"max_tokens": 8, "temperature": 0}
        choice = engine.complete(prompt=[5, 6, 7], **asked)
        assert choice["usage"]["prompt_tokens"] == 3
        assert choice["text"] == engine.complete(prompt=[[5, 6, 7]], **asked)["text"]

    def test_several_prompts_come_back_in_order(self, engine):
        prompts = [PROMPT, "import os\n", "class Queue:\n"]
        asked = {"max_tokens": 12, "temperature": 0}
        together = engine.post("/v1/completions", prompt=prompts, **asked).json()
        assert [choice["index"] for choice in together["choices"]] == [0, 1, 2]
        alone = [engine.complete(prompt=prompt, **asked)["text"] for prompt in prompts]
        assert [choice["text"] for choice in together["choices"]] == alone


class TestSeed:
    def test_a_seed_gives_the_same_text_whoever_else_is_in_the_batch(self, engine):
        # Given the text that a seed gives alone
        alone = engine.complete(**SAMPLED, seed=7)["text"]
        # When other requests run at the same time
        company = threading.Thread(
            target=engine.post,
            args=("/v1/completions",),
            kwargs={"prompt": ["a", "import", "x = "], "max_tokens": 60, "ignore_eos": True},
        )
        company.start()
        wait_until(lambda: engine.stats().running >= 3)
        crowded = engine.complete(**SAMPLED, seed=7)["text"]
        company.join()
        # Then it is the same
        assert crowded == alone

    def test_other_seeds_and_no_seed_give_other_texts(self, engine):
        texts = {engine.complete(**SAMPLED, seed=seed)["text"] for seed in (1, 2, None, None)}
        assert len(texts) == 4


class TestStop:
    @pytest.fixture
    def text(self, engine):
        return engine.complete(prompt=PROMPT, max_tokens=24, temperature=0, ignore_eos=True)["text"]

    @pytest.mark.parametrize(("start", "end"), [(3, 4), (5, 11), (2, 20)])
    def test_text_ends_before_a_stop_string_wherever_its_tokens_end(self, engine, text, start, end):
        stop = text[start:end]
        asked = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True, "stop": ["\x00", stop]}
        choice = engine.complete(**asked)
        assert choice["text"] == text[: text.index(stop)]
        assert choice["finish_reason"] == "stop"
        chunks = engine.stream("/v1/completions", **asked, stream_options={"include_usage": True})
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1]) == choice["text"]
        assert chunks[-1]["usage"] == choice["usage"]
        assert choice["usage"]["completion_tokens"] < 24
        wait_until(lambda: idle(engine), what="the stopped sequence gave its blocks back")

    def test_a_stop_string_that_never_comes_takes_nothing_away(self, engine, text):
        stop = text[-3:] + "\x00"  # held back to the very end
        choice = engine.complete(prompt=PROMPT, max_tokens=24, temperature=0, ignore_eos=True, stop=stop)
        assert (choice["text"], choice["finish_reason"]) == (text, "length")

    def test_the_end_token_ends_unless_it_is_ignored(self, engine):
        asked = {"messages": [{"role": "user", "content": "What is json.loads?"}], "temperature": 0}
        ended = engine.post("/v1/chat/completions", **asked).json()
        assert ended["choices"][0]["finish_reason"] == "stop"
        tokens = ended["usage"]["completion_tokens"] + 5
        longer = engine.post("/v1/chat/completions", **asked, ignore_eos=True, max_tokens=tokens).json()
        assert longer["choices"][0]["finish_reason"] == "length"
        assert longer["usage"]["completion_tokens"] == tokens


class TestStream:
    def test_completion_chunks_joined_are_the_whole(self, engine):
        asked = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0.9, "seed": 5}
        whole = engine.complete(**asked)
        chunks = engine.stream("/v1/completions", **asked)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
        assert chunks[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]
        assert len({chunk["id"] for chunk in chunks}) == 1

    def test_chat_chunks_joined_are_the_whole(self, engine):
        asked = {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is os?"}]}], "seed": 5}
        whole = engine.post("/v1/chat/completions", **asked).json()
        chunks = engine.stream("/v1/chat/completions", **asked, stream_options={"include_usage": True})
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
        assert deltas[0] == {"role": "assistant", "content": ""}
        text = "".join(delta.get("content", "") for delta in deltas)
        assert text == whole["choices"][0]["message"]["content"]
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == whole["usage"]

    def test_streamed_prompts_carry_their_index(self, engine):
        asked = {"prompt": [PROMPT, "import os\n"], "max_tokens": 10, "temperature": 0}
        texts = ["", ""]
        for chunk in engine.stream("/v1/completions", **asked):
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
        whole = engine.post("/v1/completions", **asked).json()
        assert texts == [choice["text"] for choice in whole["choices"]]

    def test_characters_of_many_bytes_arrive_whole(self, engine):
        # Sampled almost evenly, a byte-level tokenizer makes pieces of characters and bytes that are none.
        asked = {"prompt": "é€😀漢", "max_tokens": 60, "temperature": 2.0, "seed": 4, "ignore_eos": True}
        chunks = engine.stream("/v1/completions", **asked)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == engine.complete(**asked)["text"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "refusal"),
        [
            ({"prompt": "x", "colour": 1}, (400, "unknown_parameter", "colour")),
            ({"prompt": "x", "n": 9}, (400, "invalid_value", "n")),
            ({"prompt": "x", "n": 0}, (400, "invalid_value", "n")),
            ({"prompt": "x", "best_of": 2}, (400, "unsupported_parameter", "best_of")),
            ({"prompt": "x", "logit_bias": {"4096": 1}}, (400, "invalid_value", "logit_bias")),
            ({"prompt": "x", "stop_token_ids": [4096]}, (400, "invalid_value", "stop_token_ids")),
            ({"prompt": "x", "min_tokens": 20, "max_tokens": 19}, (400, "invalid_value", "min_tokens")),
            ({"prompt": "x", "temperature": 3}, (400, "invalid_value", "temperature")),
            ({"prompt": []}, (400, "invalid_value", "prompt")),
            ({"prompt": ""}, (400, "invalid_value", "prompt")),
            ({"prompt": [999_999]}, (400, "invalid_value", "prompt")),
            ({"prompt": ["x"] * 9}, (400, "invalid_value", "prompt")),
            ({"prompt": "x", "max_tokens": 2048}, (400, "context_length_exceeded", "prompt")),
            ({"prompt": [7] * 2048}, (400, "context_length_exceeded", "prompt")),
            ({"prompt": "x", "model": "other"}, (404, "model_not_found", "model")),
        ],
    )
    def test_a_bad_request_is_told_what_is_wrong(self, engine, body, refusal):
        response = engine.post("/v1/completions", **body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == refusal

    def test_the_context_error_gives_the_numbers(self, engine):
        message = engine.post("/v1/completions", prompt=[7] * 2000, max_tokens=100).json()["error"]["message"]
        assert all(number in message for number in ("2048", "2000", "100"))

    def test_nan_is_a_bad_value_and_not_a_crash(self, engine):
        raw = b'{"model": "yard-tiny", "prompt": "x", "top_p": NaN}'
        assert engine.client.post("/v1/completions", content=raw).json()["error"]["param"] == "top_p"

    def test_unknown_paths_and_methods_answer_in_the_same_form(self, engine):
        for response, status in ((engine.client.get("/nowhere"), 404), (engine.client.get("/v1/completions"), 405)):
            assert response.status_code == status
            assert response.json()["error"]["type"] == "invalid_request_error"


class TestLoad:
    def test_one_sequence_too_many_is_told_to_come_back(self, engine):
        async def flood() -> list[httpx.Response]:
            transport = httpx.AsyncHTTPTransport(uds=str(engine.config.uds))
            async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as client:
                body = {"model": "yard-tiny", "prompt": "x", "max_tokens": 40, "ignore_eos": True}
                return await asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(12)))

        answers = asyncio.run(flood())
        refused = [answer for answer in answers if answer.status_code == 429]
        assert [answer.status_code for answer in answers].count(200) == 8
        assert len(refused) == 4
        assert refused[0].headers["retry-after-ms"] == "100"

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_client_that_leaves_frees_its_slot(self, engine, stream):
        wait_until(lambda: idle(engine))
        # Given a request that would run for a long time
        body = {"model": "yard-tiny", "prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": stream}

        async def leave() -> None:
            _, writer = await asyncio.open_unix_connection(engine.config.uds)
            raw = json.dumps(body).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nhost: engine\r\ncontent-length: {len(raw)}\r\n\r\n"
            writer.write(head.encode() + raw)
            await writer.drain()
            await asyncio.to_thread(wait_until, lambda: engine.stats().running == 1)
            writer.close()
            await writer.wait_closed()

        # When its client goes away
        asyncio.run(leave())
        # Then generation stops and the memory is free
        wait_until(lambda: idle(engine), timeout=2, what="the sequence is cancelled")
        before = engine.stats().tokens_generated
        engine.complete(prompt="x", max_tokens=1)
        assert engine.stats().tokens_generated == before + 1

    def test_more_than_the_cache_holds_is_preempted_and_comes_out_the_same(self, engine):
        def texts(prompts: list[str]) -> list[str]:
            asked = {"prompt": prompts, "max_tokens": 300, "temperature": 1.0, "seed": 3, "ignore_eos": True}
            answer = engine.post("/v1/completions", **asked).raise_for_status().json()
            return [choice["text"] for choice in answer["choices"]]

        # Given the texts of eight sequences, of which the cache holds four at a time
        prompts = [f"number {number}" for number in range(8)]
        calm = texts(prompts[:4]) + texts(prompts[4:])
        # When all eight run together, and want 80 blocks of 70
        crowded = texts(prompts)
        # Then each gets its own text
        assert crowded == calm


class TestFigures:
    def test_the_socket_is_for_its_owner_alone(self, engine):
        assert stat.S_IMODE(engine.config.uds.stat().st_mode) == 0o600

    def test_models_lists_every_name(self, engine):
        models = engine.client.get("/v1/models").json()["data"]
        assert [(model["id"], model["context_length"]) for model in models] == [("yard-tiny", 2048), ("tiny", 2048)]

    def test_stats_tell_what_runs(self, engine):
        stats = engine.stats()
        assert (stats.pid, stats.state, stats.model) == (engine.process.pid, "ready", "yard-tiny")
        assert stats.kv_blocks_total == 70
        assert stats.ready_at > stats.started_at

    def test_neither_prompt_nor_output_is_logged(self, engine):
        engine.post("/v1/completions", prompt="SECRET WORDS", max_tokens="SECRET NUMBER")
        engine.complete(prompt="SECRET WORDS", max_tokens=2)
        lines = engine.log.read_text().splitlines()
        assert "SECRET" not in "".join(lines)
        assert {"starting", "loaded", "ready"} <= {json.loads(line)["event"] for line in lines}
