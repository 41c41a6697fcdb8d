"""OpenAI's client on a gateway with our own engine behind it: what callers of completions and embeddings rely on."""

import json
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.gateway.conftest import Gateway
from tests.gateway.placed import Placed, placed

SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "point",
        "schema": {
            "type": "object",
            "properties": {"x": {"type": "integer"}},
            "required": ["x"],
            "additionalProperties": False,
        },
    },
}

AGAIN = {"hit", "coalesced"}  # coalesced: the first answer is still on its way into the cache


@pytest.fixture(scope="module")
def tiny(gateway: Gateway) -> Iterator[Placed]:
    """yard-tiny on an engine of its own."""
    with placed(gateway, engines=0) as world:
        world.start_tiny()
        yield world


@pytest.fixture
def client(tiny: Placed) -> OpenAI:
    return tiny.openai()


class TestCompletions:
    def test_several_prompts_and_choices(self, tiny: Placed, client: OpenAI) -> None:
        answer = client.completions.create(model=tiny.name, prompt=["a", "b"], n=2, max_tokens=4, seed=1)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        assert answer.model == tiny.name
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 16

    def test_a_stream_is_the_whole_answer_in_pieces(self, tiny: Placed, client: OpenAI) -> None:
        wish: dict[str, Any] = {"model": tiny.name, "prompt": "Once", "max_tokens": 12, "temperature": 0}
        off = {"cache": {"mode": "off"}}
        whole = client.completions.create(**wish, extra_body=off)
        pieces = client.completions.create(**wish, stream=True, extra_body=off)
        assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text

    def test_stop_strings_end_the_text(self, tiny: Placed, client: OpenAI) -> None:
        wish: dict[str, Any] = {"model": tiny.name, "prompt": "Once", "max_tokens": 16, "temperature": 0}
        text = client.completions.create(**wish).choices[0].text
        answer = client.completions.create(**wish, stop=[text[3:5]])
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (text[:3], "stop")

    def test_tokens_are_a_prompt(self, tiny: Placed, client: OpenAI) -> None:
        answer = client.completions.create(model=tiny.name, prompt=[1, 2, 3], max_tokens=2)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 3


class TestChat:
    def test_a_seed_repeats_the_answer(self, tiny: Placed, client: OpenAI) -> None:
        wish: dict[str, Any] = tiny.chat("Say", seed=7, max_tokens=12, temperature=1.0)
        off = {"cache": {"mode": "off"}}
        said = {client.chat.completions.create(**wish, extra_body=off).choices[0].message.content for _ in range(2)}
        assert len(said) == 1

    def test_log_probabilities(self, tiny: Placed, client: OpenAI) -> None:
        answer = client.chat.completions.create(**tiny.chat("Say"), logprobs=True, top_logprobs=2, max_tokens=3)
        told = answer.choices[0].logprobs
        assert told is not None
        assert told.content is not None
        assert [len(token.top_logprobs) for token in told.content] == [2, 2, 2]

    def test_a_json_schema_is_kept(self, tiny: Placed, client: OpenAI) -> None:
        answer = client.chat.completions.create(**tiny.chat("Point", response_format=SCHEMA, max_tokens=64, seed=1))
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(answer.choices[0].message.content or "")["x"], int)
        else:
            assert (answer.choices[0].message.content or "").lstrip().startswith("{")

    def test_a_prompt_beyond_the_context_is_a_400(self, tiny: Placed, client: OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**tiny.chat("word " * 9000))
        assert caught.value.code == "context_length_exceeded"
        assert tiny.digest not in str(caught.value)


class TestCache:
    def test_the_second_equal_request_is_a_hit_and_a_stream_is_replayed(self, tiny: Placed) -> None:
        wish = tiny.chat("cached", temperature=0, max_tokens=8)
        with tiny.http() as http:
            first = http.post("/v1/chat/completions", json=wish)
            second = http.post("/v1/chat/completions", json=wish)
            stream = http.post("/v1/chat/completions", json=wish | {"stream": True})
        assert first.headers["x-cache"] == "miss"
        assert {second.headers["x-cache"], stream.headers["x-cache"]} <= AGAIN
        said = first.json()["choices"][0]["message"]["content"]
        assert second.json()["choices"][0]["message"]["content"] == said
        assert second.json()["model"] == tiny.name
        chunks = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: {")]
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == said

    def test_a_stream_is_kept_for_a_whole_answer(self, tiny: Placed) -> None:
        wish = tiny.chat("streamed first", temperature=0, max_tokens=8)
        with tiny.http() as http:
            first = http.post("/v1/chat/completions", json=wish | {"stream": True})
            second = http.post("/v1/chat/completions", json=wish)
        assert (first.headers["x-cache"], second.headers["x-cache"] in AGAIN) == ("miss", True)


class TestEmbeddings:
    def test_floats_and_base64_are_the_same_unit_vectors(self, tiny: Placed, client: OpenAI) -> None:
        texts = ["first text", "second"]
        floats = client.embeddings.create(model=tiny.name, input=texts, encoding_format="float")
        default = client.embeddings.create(model=tiny.name, input=texts)  # the client asks for base64
        assert floats.model == tiny.name
        assert floats.usage.prompt_tokens > 0
        for one, other in zip(floats.data, default.data, strict=True):
            assert math.isclose(math.hypot(*one.embedding), 1, abs_tol=1e-4)
            assert one.embedding == pytest.approx(other.embedding, abs=1e-6)

    def test_each_is_a_row(self, tiny: Placed) -> None:
        with tiny.http() as http:
            answer = http.post("/v1/embeddings", json={"model": tiny.name, "input": "row", "cache": {"mode": "off"}})
        job = tiny.job(answer.headers["x-job-id"])
        assert (job["state"], job["spec"]["endpoint"]) == ("succeeded", "/v1/embeddings")
        assert job["usage"]["prompt_tokens"] > 0

    @pytest.mark.parametrize("given", ["", [], [""], ["x"] * 2049])
    def test_input_must_hold_something(self, tiny: Placed, given: Any) -> None:
        with tiny.http() as http:
            answer = http.post("/v1/embeddings", json={"model": tiny.name, "input": given})
        assert answer.status_code == 400
