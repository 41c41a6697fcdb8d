from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from tests.workers.forge.evaluation.models import runner
from workers.forge.data.reading import Turn
from workers.forge.data.tasks import Prompt
from workers.forge.evaluation.generation import answers
from workers.forge.evaluation.subjects import Runner
from workers.forge.refusing import Refused

PROMPTS = ["def", "The function returns a list of", "import os, sys\n\nclass Reader:\n    def read(self"]


def generated(model: Runner, prompts: list[list[int]], *, max_tokens: int = 12) -> list[list[int]]:
    with torch.inference_mode():
        return answers(prompts, model, max_tokens=max_tokens, done=lambda _: None)


def greedy(model: Runner, ids: list[int], *, max_tokens: int, end: int) -> list[int]:
    """The definition: the likeliest next token, without a cache."""
    found = list(ids)
    with torch.inference_mode():
        for _ in range(max_tokens):
            token = int(model.model(input_ids=torch.tensor([found])).logits[0, -1].argmax())
            if token == end:
                break
            found.append(token)
    return found[len(ids) :]


class TestAnswers:
    def test_a_batch_answers_as_each_prompt_would_alone(self, folders: dict[str, Path]) -> None:
        model = runner(folders["base"])
        prompts = [model.reader.encode(text) for text in PROMPTS]
        assert generated(model, prompts) == [greedy(model, ids, max_tokens=12, end=1) for ids in prompts]

    def test_an_answer_stops_before_its_end_token(self, folders: dict[str, Path]) -> None:
        model = runner(folders["base"])
        prompts = [model.reader.encode(text) for text in PROMPTS]
        whole = generated(model, prompts)
        end = whole[0][3]  # as if this were the model's end token
        model.model.generation_config = GenerationConfig(eos_token_id=[1, end], pad_token_id=0)
        cut = generated(model, prompts)
        assert cut[0] == whole[0][: whole[0].index(end)]
        assert [ids[: len(short)] for ids, short in zip(whole, cut, strict=True)] == cut

    def test_the_checkpoints_own_penalties_are_not_greedy(self, folders: dict[str, Path]) -> None:
        model = runner(folders["base"])
        prompts = [model.reader.encode(text) for text in PROMPTS]
        plain = generated(model, prompts)
        model.model.generation_config = GenerationConfig(
            do_sample=True, temperature=5.0, repetition_penalty=9.0, no_repeat_ngram_size=1, eos_token_id=1
        )
        assert generated(model, prompts) == plain

    def test_a_model_that_overflows_is_named(self, loud: Runner) -> None:
        with pytest.raises(Refused, match="loud") as refused:
            generated(loud, [[5, 6, 7]])
        assert refused.value.code == "non_finite_logits"


class TestAsks:
    def test_messages_go_through_the_chat_template(self, base: Runner) -> None:
        prompt = Prompt(("x",), messages=(Turn("user", "What is zlib?"),))
        ids = base.reader.asks(prompt)
        assert ids is not None
        assert base.reader.tokenizer.decode(ids) == "<|user|>\nWhat is zlib?<|end|>\n<|assistant|>\n"

    def test_without_a_template_they_are_lines(self, folders: dict[str, Path]) -> None:
        reader = runner(folders["base"]).reader
        reader.tokenizer.chat_template = None
        ids = reader.asks(Prompt(("x",), messages=(Turn("user", "What is zlib?"),)))
        assert ids is not None
        assert reader.tokenizer.decode(ids) == "user: What is zlib?\nassistant:"

    def test_a_chat_that_the_template_refuses(self, folders: dict[str, Path]) -> None:
        reader = runner(folders["base"]).reader
        reader.tokenizer.chat_template = "{{ raise_exception('no') }}"
        assert reader.asks(Prompt(("x",), messages=(Turn("user", "What is zlib?"),))) is None


class TestDecode:
    def test_special_tokens_are_left_out(self, base: Runner) -> None:
        assert base.reader.decode([*base.reader.encode("a list"), 1]) == "a list"
