import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.workers.forge.tuning.data.conftest import Load, Told, Write, chat
from workers.forge.data import templates
from workers.forge.data.templates import ChatRefused, Renderer, Scene
from workers.forge.refusing import Refused
from workers.forge.tuning.packing import pack


def stories(count: int, *, words: int = 8) -> list[dict[str, str]]:
    return [{"text": f"story {each}: " + "the hero walks " * (words // 2 + each % words)} for each in range(count)]


class TestLength:
    def test_it_is_that_of_the_longest_sample(self, write: Write, loaded: Load) -> None:
        data = loaded(write(stories(9)))
        assert data.max_length == data.facts.longest == max(len(row.ids_T) for row in data.train)
        assert loaded(write(stories(9)), max_length=500).max_length == 500

    def test_longer_samples_are_named_with_their_tokens(self, write: Write, loaded: Load) -> None:
        lines = [*stories(1), *stories(30, words=40)]
        with pytest.raises(Refused) as refused:
            loaded(write(lines), max_length=32)
        assert (refused.value.code, refused.value.title) == ("too_long", "Samples are longer than 32 tokens: 30")
        assert refused.value.detail.startswith("data.jsonl, line 2: ")
        assert refused.value.detail.count(" tokens") == 20
        assert refused.value.detail.endswith("; and 10 more")

    def test_nothing_is_longer_than_the_context(self, write: Write, loaded: Load) -> None:
        with pytest.raises(Refused, match="longer than 16 tokens: 3"):
            loaded(write(stories(3, words=40)), context_length=16)
        with pytest.raises(Refused, match="max_length is more than the model holds") as refused:
            loaded(write(stories(3)), context_length=16, max_length=17)
        assert refused.value.code == "too_long"

    def test_truncating_keeps_the_beginning(self, write: Write, loaded: Load, told: Told) -> None:
        whole = loaded(write(stories(4, words=40))).train
        data = loaded(write(stories(4, words=40)), max_length=32, too_long="truncate")
        assert [row.ids_T.tolist() for row in data.train] == [row.ids_T[:32].tolist() for row in whole]
        assert (data.facts.kept, data.facts.truncated, data.facts.longest) == (4, 4, 32)
        assert "longer than 32 tokens, cut to that: data.jsonl, line 1: " in told.lines[0]

    def test_what_has_no_answer_left_is_left_out(self, write: Write, loaded: Load) -> None:
        lines = [chat("the hero walks " * 30, "First."), chat("One?", "First.")]
        data = loaded(write(lines), max_length=32, too_long="truncate")
        assert (data.facts.kept, data.facts.left_out) == (1, {"nothing_to_learn": 1})

    def test_dropping_leaves_them_out(self, write: Write, loaded: Load) -> None:
        data = loaded(write([*stories(2), *stories(3, words=40)]), max_length=64, too_long="drop")
        assert (data.facts.kept, data.facts.left_out, data.facts.truncated) == (2, {"too_long": 3}, 0)
        with pytest.raises(Refused, match="nothing to learn") as refused:
            loaded(write(stories(3, words=40)), max_length=16, too_long="drop")
        assert refused.value.detail == "samples left out: 3 too_long"


class TestPacking:
    @given(lengths=st.lists(st.integers(1, 100), max_size=80))
    def test_every_sample_is_in_one_row_and_no_two_rows_fit_in_one(self, lengths: list[int]) -> None:
        rows = pack(lengths, room=100)
        assert sorted(sample for row in rows for sample in row) == list(range(len(lengths)))
        used = sorted(sum(lengths[sample] for sample in row) for row in rows)
        assert all(tokens <= 100 for tokens in used)
        assert all(sum(two) > 100 for two in itertools.pairwise(used))

    def test_rows_hold_the_same_samples(self, write: Write, loaded: Load) -> None:
        alone = loaded(write(stories(40))).train
        data = loaded(write(stories(40)), packing=True, max_length=128)
        parts: list[tuple[list[int], list[bool]]] = []
        for row in data.train:
            assert len(row.ids_T) == sum(row.lengths) <= data.max_length == 128
            cuts = np.cumsum(row.lengths)[:-1]
            parts += zip(map(list, np.split(row.ids_T, cuts)), map(list, np.split(row.loss_T, cuts)), strict=True)
        assert sorted(parts) == sorted((list(row.ids_T), list(row.loss_T)) for row in alone)
        assert data.facts.rows == len(data.train) < 40
        assert sum(len(row.ids_T) for row in data.train[:-1]) > 0.9 * 128 * (len(data.train) - 1)


class TestFacts:
    def test_they_add_up(self, write: Write, loaded: Load, told: Told) -> None:
        files = [write([*stories(30), *stories(5)], name="a"), write([chat("One?", "First.")] * 3, name="b")]
        data = loaded(*files, preparation={}, validation_share=0.2)
        facts = data.facts
        assert facts.read == 38 == facts.kept + facts.validation + sum(facts.left_out.values())
        assert (facts.left_out, facts.validation, sum(facts.sources.values())) == ({"duplicate": 7}, 6, facts.kept)
        assert facts.tokens == sum(len(row.ids_T) for row in data.train)
        assert facts.trained_tokens == sum(row.loss_T.sum() for row in data.train)
        assert told.progress[-1] == (31, 31, "samples")

    def test_the_same_order_makes_the_same_rows(self, write: Write, loaded: Load) -> None:
        data = write([*stories(40), chat("One?", "First.")])
        found = [loaded(data, seed=seed, packing=True, validation_share=0.2).facts.sha256 for seed in (3, 3, 4)]
        assert found[0] == found[1] != found[2]

    def test_the_loss_is_part_of_the_digest(self, write: Write, loaded: Load) -> None:
        data = write([chat("One?", "First.", "Two?", "Second.")])
        assert loaded(data).facts.sha256 != loaded(data, loss_on="completion").facts.sha256


class TestTemplatesThatRefuse:
    STRICT = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}"
        "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )

    def test_lines_are_named(self, write: Write, loaded: Load, with_template) -> None:
        lines = [chat("One?", "First."), chat("One?", "First.", system="Be brief.")]
        with pytest.raises(Refused) as refused:
            loaded(write(lines), tokenizer=with_template(self.STRICT))
        assert refused.value.code == "invalid_data"
        assert refused.value.title == "Lines of the data are refused by the model's chat template"
        assert refused.value.detail == "data.jsonl, line 2: no system prompts"

    def test_a_line_of_one_token_teaches_nothing(self, write: Write, loaded: Load, spaced, tmp_path) -> None:
        """The tokenizer puts nothing before a text, and knows no end."""
        bare = PreTrainedTokenizerFast(tokenizer_object=spaced.backend_tokenizer)
        bare.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
        data = write([{"text": "red"}, {"text": "red blue"}])
        with pytest.raises(Refused, match="have no token to learn") as refused:
            loaded(data, tokenizer=bare, folder=tmp_path)
        assert refused.value.code == "invalid_data"
        facts = loaded(data, tokenizer=bare, folder=tmp_path, preparation={}).facts
        assert (facts.tokens, facts.trained_tokens, facts.left_out) == (2, 1, {"nothing_to_learn": 1})

    def test_a_preparation_leaves_them_out(self, write: Write, loaded: Load, with_template, told: Told) -> None:
        lines = [chat("One?", "First."), chat("One?", "First.", system="Be brief.")]
        facts = loaded(write(lines), tokenizer=with_template(self.STRICT), preparation={}).facts
        assert (facts.kept, facts.left_out) == (1, {"refused_by_template": 1})
        assert told.lines == [
            (
                "Lines of the data are refused by the model's chat template, and are left out: "
                "data.jsonl, line 2: no system prompts"
            )
        ]

    def test_one_that_kills_the_process_costs_one_chat(self, with_template, monkeypatch: pytest.MonkeyPatch) -> None:
        """Orders hold several chats; those beside a bad one are asked for again."""
        monkeypatch.setattr(templates, "_GROUP", 4)
        program = "{% if messages[0].content == 'odd' %}{{ 'x' * 10**10 }}{% endif %}{{ messages[0].content }}"
        scenes = [Scene([{"role": "user", "content": word}], answered=True) for word in ("a", "odd", "b", "c")]
        found = Renderer(with_template(program)).render_all(scenes)
        assert [str(each) for each in found] == ["a", "it needs too much (MemoryError)", "b", "c"]
        assert isinstance(found[1], ChatRefused)
