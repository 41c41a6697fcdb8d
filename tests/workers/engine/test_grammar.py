"""Answers that must be JSON: what a grammar lets through, what it refuses to be, and how long it takes."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests.workers.engine.conftest import YARD_TINY
from tests.workers.engine.stepping import GREEDY, Batch
from workers.engine.grammar import JSON_OBJECT, GrammarRefused, Grammars, of_schema
from workers.engine.sampling import Sampler, Sampling

END = 1
VOCABULARY = 4096
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
LONG_DIGITS = {"type": "string", "pattern": "^(([a-z]{1,500}|[0-9]{1,400}){1,500}x){1,500}$"}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(YARD_TINY)


@pytest.fixture(scope="module")
def grammars(tokenizer):
    return Grammars(tokenizer, vocabulary=VOCABULARY, eos=[END])


def noise(rows: int, step: int) -> torch.Tensor:
    """Scores of a model that has learnt nothing, but that JSON's end is worth having."""
    scores = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(step))
    scores[:, END] = 20.0
    return scores


def guided(schema: dict[str, Any], **wish: Any) -> Sampling:
    return replace(GREEDY, grammar=of_schema(schema), endings=(END,), **wish)


class TestFollowed:
    @pytest.mark.parametrize("temperature", [0, 1])
    def test_whatever_a_model_says_the_answer_parses_and_fits(self, tokenizer, grammars, temperature):
        # Given sequences with different schemas, and one without, in one batch
        wishes = [guided(PERSON, temperature=temperature, seed=seed) for seed in range(6)]
        wishes += [guided({"enum": ["yes", "no"]}, temperature=temperature), GREEDY]
        batch = Batch(wishes, sampler=Sampler(grammars))
        # When they are generated
        for step in range(200):
            batch.step(noise(len(wishes), step))
        assert batch.states[-1] in batch.running
        # Then each that came to its end is what it should be
        texts = []
        for state in batch.states[:-1]:
            tokens = state.generated_tokens
            if END in tokens:
                texts.append(tokenizer.decode(tokens[: tokens.index(END)]))
        assert len(texts) > 3
        for text in texts:
            answer = json.loads(text)
            assert answer in ("yes", "no") or (set(answer) == {"name", "age"} and answer["age"] >= 0)

    def test_after_a_preemption_the_grammar_goes_on_where_it_was(self, grammars):
        calm, moved = (Batch([guided(PERSON, temperature=1)], sampler=Sampler(grammars)) for _ in range(2))
        for step in range(40):
            if step in {5, 20}:
                moved.preempt()
            if not calm.running:
                break
            assert moved.step(noise(1, step)) == calm.step(noise(1, step))

    def test_two_ranks_that_build_their_own_agree(self, tokenizer, grammars):
        other = Grammars(tokenizer, vocabulary=VOCABULARY, eos=[END])
        one, two = (Batch([guided(PERSON, temperature=1)], sampler=Sampler(own)) for own in (grammars, other))
        for step in range(40):
            if one.running:
                assert one.step(noise(1, step)) == two.step(noise(1, step))

    def test_only_a_grammar_that_hit_its_limit_ends_its_sequence(self, grammars):
        batch = Batch([guided(LONG_DIGITS, temperature=1), guided(PERSON, temperature=1)], sampler=Sampler(grammars))
        for step in range(60):
            if batch.running:
                batch.step(noise(2, step))
        assert batch.record(0).error is not None
        assert END in batch.states[0].generated_tokens
        assert batch.record(1).error is None


class TestRefused:
    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "frob"},
            {"not": {"type": "string"}},
            {"type": "array", "uniqueItems": True},
            {"$ref": "http://example.com/schema"},
            {"$ref": "#"},
            {"type": "string", "pattern": "^(?=a)b"},
            {"type": "string", "pattern": "("},
            {
                "allOf": [
                    {"anyOf": [{"properties": {f"q{j}{i}": {"type": "integer"}}} for i in range(8)]} for j in range(8)
                ]
            },
        ],
        ids=lambda schema: json.dumps(schema)[:30],
    )
    def test_what_cannot_be_followed_is_refused_and_quickly(self, grammars, schema):
        began = time.process_time()
        with pytest.raises(GrammarRefused) as refused:
            grammars.compile(of_schema(schema))
        assert time.process_time() - began < 2
        assert "\n" not in str(refused.value)

    def test_a_refused_schema_does_not_spoil_the_next(self, grammars):
        with pytest.raises(GrammarRefused):
            grammars.compile(of_schema({"type": "frob"}))
        grammars.compile(of_schema(PERSON))


class TestKept:
    def test_a_compiled_grammar_starts_at_once(self, tokenizer):
        grammars = Grammars(tokenizer, vocabulary=VOCABULARY, eos=[END])
        many = of_schema({"enum": [f"value {number}" for number in range(4000)]})
        grammars.compile(many)
        began = time.process_time()
        for _ in range(50):
            grammars.start(many, [])
        assert time.process_time() - began < 0.1

    def test_the_oldest_of_many_is_compiled_again_when_it_comes_back(self, tokenizer):
        grammars = Grammars(tokenizer, vocabulary=VOCABULARY, eos=[END])
        first = of_schema(JSON_OBJECT)
        grammars.compile(first)
        for number in range(70):
            grammars.compile(of_schema({"const": number}))
        assert not grammars.start(first, []).is_error()


class TestSpelling:
    def test_the_bytes_of_tokens_joined_are_the_text(self, tokenizer, grammars):
        text = "naïve 漢字 😀 def f(x):\n"
        tokens = tokenizer.encode(text)
        assert b"".join(grammars.bytes_of(token) for token in tokens) == text.encode()
