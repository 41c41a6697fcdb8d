from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from shared.contracts.forge_orders import SAMPLES_FILE
from tests.workers.forge.data.conftest import YARD_TINY, Take, Told, Write
from workers.forge.data import templates
from workers.forge.data.samples import Samples
from workers.forge.refusing import Refused

EOS, BOS = 1, 2


def stories(count: int, *, words: int = 12) -> list[dict[str, str]]:
    return [{"text": f"story {number}: " + f"the hero walks {number} " * (words // 4)} for number in range(count)]


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def unpadded(samples: Samples) -> list[list[int]]:
    pairs = zip(samples.input_ids_NL, samples.attention_mask_NL, strict=True)
    return [ids_L[mask_L == 1].tolist() for ids_L, mask_L in pairs]


@pytest.fixture(scope="session")
def llama_like() -> Any:
    """yard-tiny's vocabulary with a BOS before each text, and without a chat template."""
    inner = Tokenizer.from_file(str(YARD_TINY / "tokenizer.json"))
    inner.post_processor = TemplateProcessing(
        single="<|system|> $A", pair="<|system|> $A $B", special_tokens=[("<|system|>", BOS)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|system|>", eos_token="<|end|>")


class TestPacked:
    def test_rows_are_full_and_texts_end_with_eos(self, write: Write, taken: Take, tokenizer, told) -> None:
        samples = taken(write(stories(50)))
        assert samples.input_ids_NL.shape == (8, 32)
        assert samples.attention_mask_NL.all()
        assert (samples.input_ids_NL.dtype.name, samples.attention_mask_NL.dtype.name) == ("int32", "uint8")
        assert (samples.facts.tokens, samples.facts.samples, samples.facts.texts) == (256, 8, 50)
        ended = tokenizer.decode(samples.input_ids_NL.ravel()).split("<|end|>")
        known = {line["text"] for line in stories(50)}
        assert len(ended) > 3
        assert known.issuperset(ended[:-1])
        assert told.lines == []

    def test_bos_stands_where_the_tokenizer_wants_one(self, write: Write, taken: Take, llama_like) -> None:
        ids = taken(write(stories(50)), tokenizer=llama_like).input_ids_NL.ravel().tolist()
        assert ids[0] == BOS
        assert ids.count(EOS) > 3
        assert all(after == BOS for here, after in pairwise(ids) if here == EOS)

    def test_long_texts_take_turns(self, write: Write, taken: Take) -> None:
        """Eight samples out of twelve texts, each of which would fill all eight."""
        samples = taken(write(stories(12, words=400)))
        assert samples.facts.sources["data.jsonl"] >= 4

    def test_one_long_text_is_enough(self, write: Write, taken: Take) -> None:
        samples = taken(write(stories(1, words=800)))
        assert (samples.facts.samples, samples.facts.sources) == (8, {"data.jsonl": 1})

    def test_texts_that_are_not_needed_are_not_tokenized(self, write: Write, taken: Take, tokenizer) -> None:
        seen: list[str] = []

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(tokenizer, name)

            def __call__(self, texts: Any, **options: Any) -> Any:
                seen.extend([texts] if isinstance(texts, str) else texts)
                return tokenizer(texts, **options)

        samples = taken(write(stories(2000, words=40)), samples=4, tokenizer=Counting())
        assert samples.facts.left_out["not_needed"] > 1980
        assert len(seen) < 20


class TestChats:
    def test_they_go_through_the_template(self, write: Write, taken: Take, tokenizer, told) -> None:
        data = write([chat(f"What is {number} and one?", f"It is {number + 1}.") for number in range(60)])
        ids = taken(data).input_ids_NL.ravel()
        assert tokenizer.decode(ids).startswith("<|user|>\nWhat is ")
        assert "\n<|end|><|user|>" not in tokenizer.decode(ids), "the template has written the end already"
        assert told.lines == []

    def test_without_template_they_are_plain_text(self, write: Write, taken: Take, llama_like, told: Told) -> None:
        data = write([chat(f"What is {number} and one?", f"It is {number + 1}.") for number in range(60)])
        decoded = llama_like.decode(taken(data, tokenizer=llama_like).input_ids_NL.ravel())
        assert decoded.startswith("<|system|>user: What is ")
        assert "\nassistant: It is " in decoded
        assert len(told.lines) == 1
        assert "no chat template" in told.lines[0]

    def test_what_the_template_refuses_is_counted(self, write: Write, taken: Take, told: Told, tokenizer) -> None:
        strict = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
        strict.chat_template = (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}"
            "{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"
        )
        bad = [{"messages": [{"role": "system", "content": "Be brief, number"}, *chat("?", "!")["messages"]]}]
        good = [chat(f"What is the number {number} and one more?", f"It is {number + 1}.") for number in range(30)]
        samples = taken(write(bad + good), samples=500, min_characters=1, tokenizer=strict)
        assert samples.facts.left_out["refused_by_template"] == 1
        assert told.lines[0] == "the chat template refuses data.jsonl, line 1: no system prompts"

    def test_bos_is_not_doubled(self, write: Write, taken: Take, llama_like) -> None:
        """Llama 3's template writes the token that its tokenizer would put there too."""
        own = PreTrainedTokenizerFast(tokenizer_object=llama_like.backend_tokenizer, bos_token="<|system|>")
        own.chat_template = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
        data = write([chat(f"What is {number} and one more?", f"It is {number + 1}.") for number in range(60)])
        ids = taken(data, tokenizer=own).input_ids_NL.ravel().tolist()
        assert ids.count(BOS) > 8
        assert not any(here == after == BOS for here, after in pairwise(ids))

    @pytest.mark.parametrize(
        ("program", "reason"),
        [
            ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "come to an end"),
            ("{{ 'x' * 10**10 }}", "MemoryError"),
            ("{{ 1 // 0 }}", "ZeroDivisionError"),
            ("{{ '\\ud800' }}", "no Unicode"),
        ],
    )
    def test_a_template_that_misbehaves_costs_a_chat(  # noqa: PLR0917 - fixtures
        self, write: Write, taken: Take, told: Told, tokenizer, program: str, reason: str
    ) -> None:
        hostile = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
        hostile.chat_template = (
            "{% if messages[0].content == 'odd' %}" + program + "{% endif %}"
            "{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"
        )
        good = [chat(f"What is the number {number} and one more?", f"It is {number + 1}.") for number in range(30)]
        samples = taken(write([chat("odd", "?"), *good]), samples=500, min_characters=1, tokenizer=hostile)
        assert samples.facts.left_out["refused_by_template"] == 1
        assert reason in told.lines[0]

    def test_a_template_that_always_loops_ends_the_job(
        self, write: Write, taken: Take, tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(templates, "_LOST_S", 0.5)
        hostile = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
        hostile.chat_template = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        with pytest.raises(Refused, match="takes too long") as refused:
            taken(write([chat(f"What is {number} and one?", "It is.") for number in range(1000)]), tokenizer=hostile)
        assert refused.value.code == "unsupported_model"


class TestSingle:
    def test_each_text_is_a_row_cut_or_padded(self, write: Write, taken: Take, tokenizer) -> None:
        lines = [{"text": "short text number one"}, *stories(1, words=400), {"text": "another short text"}]
        samples = taken(write(lines), packed=False, samples=3, strategy="longest")
        assert unpadded(samples) == [
            tokenizer(text)["input_ids"][:32]
            for text in sorted((line["text"] for line in lines), key=len, reverse=True)
        ]
        assert samples.input_ids_NL[2, -1] == tokenizer.pad_token_id
        assert samples.facts.tokens == samples.attention_mask_NL.sum() < 96

    def test_white_space_does_not_shorten_a_row(self, write: Write, taken: Take, tokenizer) -> None:
        text = " " * 5000 + stories(1, words=400)[0]["text"]
        samples = taken(write([{"text": text}]), packed=False, samples=1)
        assert unpadded(samples) == [tokenizer(text)["input_ids"][:32]]

    def test_bos_is_kept(self, write: Write, taken: Take, llama_like) -> None:
        samples = taken(write(stories(8)), packed=False, tokenizer=llama_like)
        assert (samples.input_ids_NL[:, 0] == BOS).all()
        assert samples.input_ids_NL.shape == (8, 32)


class TestSources:
    def test_weights_share_the_samples(self, write: Write, taken: Take, tokenizer) -> None:
        """Each source has one word, over and over."""
        data = [
            write([{"text": f"{word} " * 500}], name=word, weight=weight)
            for word, weight in (("apple", 3.0), ("stone", 1.0))
        ]
        samples = taken(*data, packed=True, samples=8)
        rows = [tokenizer.decode(ids_L) for ids_L in samples.input_ids_NL]
        assert [row.count("stone") > row.count("apple") for row in rows].count(True) == 2
        assert [row.count("stone") > row.count("apple") for row in rows[:4]].count(True) == 1, "they are mixed"

    def test_what_one_cannot_fill_goes_to_the_others(self, write: Write, taken: Take, told) -> None:
        data = [write(stories(4), name="few", weight=9), write(stories(90, words=20), name="many")]
        samples = taken(*data, packed=False, samples=20)
        assert samples.facts.sources == {"few": 4, "many": 16}
        assert told.lines == []

    def test_ends_of_several_sources_fill_a_row(self, write: Write, taken: Take) -> None:
        data = [write(stories(1, words=8), name=str(number)) for number in range(6)]
        samples = taken(*data, deduplicate=False, sequence_length=48)
        assert 1 <= samples.facts.samples < 6
        assert sum(samples.facts.sources.values()) + samples.facts.left_out.get("remainder", 0) == 6

    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("samples", [3, 500])
    def test_every_text_is_taken_or_counted(self, write: Write, taken: Take, packed, samples) -> None:
        lines = [*stories(40), *stories(3), {"text": "x"}, chat("Why?", "Because it is so, you see.")]
        data = [write(lines, name="one"), write(stories(60), name="two", weight=2)]
        facts = taken(
            *data, reference=[write(stories(2), name="like")], share=0.8, packed=packed, samples=samples
        ).facts
        assert facts.texts == 105
        assert sum(facts.sources.values()) + sum(facts.left_out.values()) == 105
        assert facts.left_out["too_short"] == 1
        assert facts.left_out["duplicate"] == 43


class TestLittle:
    @pytest.mark.parametrize("packed", [True, False])
    def test_one_short_line_is_refused_with_its_tokens(self, write: Write, taken: Take, tokenizer, packed) -> None:
        text = "a line that is too short"
        tokens = len(tokenizer(text)["input_ids"]) + packed  # and EOS
        with pytest.raises(Refused) as refused:
            taken(write([{"text": text}]), packed=packed)
        assert refused.value.code == "not_enough_data"
        assert refused.value.detail == f"{tokens} tokens in 1 texts; a sample takes 32"

    def test_empty_file_is_refused(self, write: Write, taken: Take) -> None:
        with pytest.raises(Refused) as refused:
            taken(write([]))
        assert (refused.value.code, refused.value.detail) == (
            "not_enough_data",
            "0 tokens in 0 texts; a sample takes 32",
        )

    def test_what_was_left_out_is_said(self, write: Write, taken: Take) -> None:
        with pytest.raises(Refused, match=r"\(texts left out: 4 duplicate, 1 too_short\)"):
            taken(write([*[{"text": "the same again and again"}] * 5, {"text": "x"}]))

    def test_fewer_samples_than_asked_for_are_told(self, write: Write, taken: Take, told) -> None:
        samples = taken(write(stories(6)), samples=100)
        assert 1 <= samples.facts.samples < 100
        assert told.lines == [
            f"{samples.facts.samples} samples of 32 tokens instead of 100: there is no more data",
        ]


class TestFile:
    def test_saved_samples_are_the_same(self, write: Write, taken: Take, tmp_path: Path) -> None:
        samples = taken(write(stories(8)), packed=False)
        assert samples.save(tmp_path) == tmp_path / SAMPLES_FILE
        loaded = Samples.load(tmp_path)
        assert loaded.facts == samples.facts
        assert (loaded.input_ids_NL == samples.input_ids_NL).all()
        assert (loaded.attention_mask_NL == samples.attention_mask_NL).all()

    def test_same_order_gives_the_same_digest(self, write: Write, taken: Take) -> None:
        data = write(stories(80))
        digests = [taken(data, seed=seed).facts.sha256 for seed in (4, 4, 5)]
        assert digests[0] == digests[1]
        assert digests[0] != digests[2]

    @pytest.mark.parametrize("keep", [0, 4, 100, -300, -1])
    def test_cut_file_is_refused(self, write: Write, taken: Take, tmp_path: Path, keep) -> None:
        path = taken(write(stories(50))).save(tmp_path)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(Refused, match="invalid_data"):
            Samples.load(tmp_path)

    def test_other_ids_are_refused(self, write: Write, taken: Take, tmp_path: Path) -> None:
        samples = taken(write(stories(50)))
        samples.input_ids_NL[3, 5] += 1
        samples.save(tmp_path)
        with pytest.raises(Refused, match="sha256"):
            Samples.load(tmp_path)

    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(Refused, match="invalid_data"):
            Samples.load(tmp_path)

    def test_dataset_holds_ids_and_mask(self, write: Write, taken: Take) -> None:
        samples = taken(write(stories(8)), packed=False)
        dataset = samples.dataset()
        assert dataset.column_names == ["input_ids", "attention_mask"]
        assert dataset[:]["input_ids"] == samples.input_ids_NL.tolist()
        assert dataset[:]["attention_mask"] == samples.attention_mask_NL.tolist()
