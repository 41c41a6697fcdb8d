"""Embeddings against a plain forward of the same weights, beside generation."""

import base64
import struct
import threading
from typing import Any

import pytest
import torch

from tests.support.polling import wait_until
from tests.workers.engine.conftest import YARD_TINY
from tests.workers.engine.plain import Plain
from tests.workers.engine.running import RunningEngine

TEXTS = ["def read(path):", "x", "import asyncio\n\nasync def main():\n    await sleep(1)\n", "class Queue: pass"]


@pytest.fixture(scope="module")
def plain():
    return Plain(YARD_TINY)


def embed(engine: RunningEngine, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = engine.post("/v1/embeddings", **body).raise_for_status().json()
    return answer


def vectors(answer: dict[str, Any]) -> torch.Tensor:
    assert [row["index"] for row in answer["data"]] == list(range(len(answer["data"])))
    return torch.tensor([row["embedding"] for row in answer["data"]])


class TestVectors:
    def test_each_text_of_a_padded_batch_is_the_plain_forward_of_it_alone(self, engine, plain):
        answer = embed(engine, input=TEXTS)
        tokens = [plain.tokenizer.encode(text) for text in TEXTS]
        expected = torch.stack([plain.embed(prompt) for prompt in tokens])
        assert torch.allclose(vectors(answer), expected, atol=1e-5)
        assert answer["usage"] == {"prompt_tokens": (total := sum(map(len, tokens))), "total_tokens": total}

    def test_tokens_are_texts(self, engine, plain):
        tokens = [plain.tokenizer.encode(text) for text in TEXTS[:2]]
        assert torch.equal(vectors(embed(engine, input=tokens)), vectors(embed(engine, input=TEXTS[:2])))
        assert torch.allclose(vectors(embed(engine, input=tokens[0]))[0], plain.embed(tokens[0]), atol=1e-5)

    def test_base64_is_the_same_numbers_little_endian(self, engine):
        [row] = embed(engine, input=TEXTS[0], encoding_format="base64")["data"]
        raw = base64.b64decode(row["embedding"])
        numbers = torch.tensor(struct.unpack(f"<{len(raw) // 4}f", raw))
        assert torch.allclose(numbers, vectors(embed(engine, input=TEXTS[0]))[0])

    def test_fewer_dimensions_are_the_first_ones_at_length_one(self, engine):
        whole = vectors(embed(engine, input=TEXTS))
        short = vectors(embed(engine, input=TEXTS, dimensions=16))
        assert torch.allclose(short, torch.nn.functional.normalize(whole[:, :16], dim=-1), atol=1e-6)

    def test_many_batches_of_many_callers_all_come_back(self, engine, plain):
        answers = {}

        def ask(number: int) -> None:
            answers[number] = embed(engine, input=[f"number {number} of {index}" for index in range(60)])

        callers = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        for number, answer in answers.items():
            expected = plain.embed(plain.tokenizer.encode(f"number {number} of 59"))
            assert torch.allclose(vectors(answer)[59], expected, atol=1e-5)


class TestBesideGeneration:
    def test_streams_go_on_and_are_what_they_would_be(self, engine):
        asked = {"prompt": "def read", "max_tokens": 60, "temperature": 1.0, "seed": 3, "ignore_eos": True}
        alone = engine.complete(**asked)["text"]
        embedding = threading.Thread(target=embed, args=(engine,), kwargs={"input": ["x " * 300] * 60})
        embedding.start()
        assert engine.complete(**asked)["text"] == alone
        embedding.join()
        assert engine.stats().modes == ("generate", "embed")


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "refusal"),
        [
            ({"input": ""}, (400, "invalid_value", "input")),
            ({"input": ["x", [1]]}, (400, "invalid_value", "input")),
            ({"input": [999_999]}, (400, "invalid_value", "input")),
            ({"input": [7] * 2049}, (400, "context_length_exceeded", "input")),
            ({"input": ["x"] * 2049}, (400, "invalid_value", "input")),
            ({"input": "x", "dimensions": 257}, (400, "invalid_value", "dimensions")),
            ({"input": "x", "dimensions": 0}, (400, "invalid_value", "dimensions")),
            ({"input": "x", "colour": 1}, (400, "unknown_parameter", "colour")),
            ({"input": "x", "encoding_format": "hex"}, (400, "invalid_value", "encoding_format")),
            ({"input": "x", "model": "other"}, (404, "model_not_found", "model")),
        ],
    )
    def test_a_bad_request_is_told_what_is_wrong(self, engine, body, refusal):
        response = engine.post("/v1/embeddings", **body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == refusal

    def test_a_caller_that_leaves_takes_its_inputs_along(self, engine):
        body = {"model": "yard-tiny", "input": [[7] * 1800] * 2000}
        with pytest.raises(Exception, match="timed out"):
            engine.client.post("/v1/embeddings", json=body, timeout=0.5)
        answered = threading.Thread(target=embed, args=(engine,), kwargs={"input": "x"})
        answered.start()
        wait_until(lambda: not answered.is_alive(), timeout=30, what="the queue is free again")
