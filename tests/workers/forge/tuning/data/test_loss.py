from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trl

from tests.workers.forge.tuning.data.conftest import Learned, Load, Told, Write, chat, shown
from workers.forge.refusing import Refused

TWO = chat("One?", "First.", "Two?", "Second.", system="Be brief.")
QWEN = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CLOSED_THOUGHTS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n<think>\n\n</think>\n\n' }}{% endif %}"
)

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
WITH_TOOLS: dict[str, Any] = {
    "tools": [TOOL],
    "parallel_tool_calls": False,
    "messages": [
        {"role": "user", "content": "1+1?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "Two."},
    ],
}


class TestChats:
    def test_answers_are_learned_with_the_token_that_ends_them(self, learned: Learned) -> None:
        assert learned(TWO) == [
            (
                "<|system|>\nBe brief.<|end|>\n<|user|>\nOne?<|end|>\n<|assistant|>\n[First.<|end|>]"
                "\n<|user|>\nTwo?<|end|>\n<|assistant|>\n[Second.<|end|>]\n"
            )
        ]

    def test_they_are_those_that_the_template_marks_itself(self, write: Write, loaded: Load, tokenizer) -> None:
        """yard-tiny's template has `{% generation %}`, which transformers reads for TRL's `assistant_only_loss`."""
        (row,) = loaded(write([TWO])).train
        marked = tokenizer.apply_chat_template(
            TWO["messages"], return_dict=True, return_assistant_tokens_mask=True, tokenize=True
        )
        assert row.ids_T.tolist() == marked["input_ids"]
        assert row.loss_T.tolist() == list(map(bool, marked["assistant_masks"]))

    def test_what_is_before_an_answer_is_what_an_engine_asks(self, write: Write, loaded: Load, tokenizer) -> None:
        (row,) = loaded(write([chat("One?", "\n\nFirst.")])).train
        asked = tokenizer.apply_chat_template(chat("One?")["messages"], add_generation_prompt=True)["input_ids"]
        first = int(row.loss_T.argmax())
        assert row.ids_T[:first].tolist() == asked
        assert tokenizer.decode(row.ids_T[first:]) == "\n\nFirst.<|end|>\n"

    def test_weight_0_is_not_learned(self, learned: Learned) -> None:
        line = chat("One?", "First.", "Two?", "Second.")
        line["messages"][1]["weight"] = 0
        line["messages"][3]["weight"] = 1
        begun = "<|user|>\nOne?<|end|>\n<|assistant|>\n"
        assert learned(line) == [f"{begun}First.<|end|>\n<|user|>\nTwo?<|end|>\n<|assistant|>\n[Second.<|end|>]\n"]
        assert learned(line, loss_on="all") == [
            (
                f"<|user|>[{begun.removeprefix('<|user|>')}]First.<|end|>\n"
                "[<|user|>\nTwo?<|end|>\n<|assistant|>\nSecond.<|end|>\n]"
            )
        ]

    @pytest.mark.parametrize(("loss_on", "count"), [("auto", 2), ("assistant", 2), ("completion", 1)])
    def test_the_last_answer_is_the_completion(self, learned: Learned, loss_on: str, count: int) -> None:
        (text,) = learned(TWO, loss_on=loss_on)
        assert text.count("[") == count
        assert text.endswith("[Second.<|end|>]\n")

    def test_messages_of_a_prompt_are_not_learned(self, learned: Learned) -> None:
        line = {"prompt": TWO["messages"][:-1], "completion": TWO["messages"][-1:]}
        assert [learned(line)[0].count("["), learned(line, loss_on="assistant")[0].count("[")] == [1, 2]

    def test_an_end_is_put_where_the_template_writes_none(self, learned: Learned, with_template) -> None:
        plain = with_template(
            "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}"
        )
        assert learned(chat("One?", "First."), tokenizer=plain) == ["user: One?\nassistant:[ First.\n<|end|>]"]

    def test_without_a_template_they_are_lines(self, learned: Learned, llama_like, told: Told) -> None:
        assert learned(TWO, tokenizer=llama_like) == [
            "<|system|>system: Be brief.\nuser: One?\nassistant:[ First.\n]user: Two?\nassistant:[ Second.<|end|>]"
        ]
        assert "no chat template" in told.lines[0]

    def test_generation_config_says_what_ends_an_answer(self, learned: Learned, with_template, tmp_path: Path) -> None:
        """As in models whose chats end with another token than their texts."""
        (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 1]}')  # <|system|>, <|end|>
        other = with_template(
            "{% for m in messages %}{{ m.content + '<|system|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{% endif %}"
        )
        assert learned(chat("One?", "First."), tokenizer=other, folder=tmp_path) == [
            "One?<|system|>\n[First.<|system|>]\n"
        ]


class TestTemplatesThatChangeTheirMind:
    def test_each_answer_is_shown_as_an_engine_would_show_it(self, learned: Learned, with_template, told: Told) -> None:
        thinking = with_template(QWEN)
        one, two = "<|user|>\nOne?<|end|>\n<|assistant|>\n", "<|user|>\nTwo?<|end|>\n<|assistant|>\n"
        assert learned(chat("One?", "First.", "Two?", "Second."), tokenizer=thinking) == [
            f"{one}[<think>\n\n</think>\n\nFirst.<|end|>]\n",
            f"{one}First.<|end|>\n{two}[<think>\n\n</think>\n\nSecond.<|end|>]\n",
        ]
        assert "each one is a sample" in told.lines[0]

    def test_a_single_answer_needs_no_change(self, learned: Learned, with_template, told: Told) -> None:
        assert learned(chat("One?", "First."), tokenizer=with_template(QWEN)) == [
            "<|user|>\nOne?<|end|>\n<|assistant|>\n[<think>\n\n</think>\n\nFirst.<|end|>]\n"
        ]
        assert told.lines == []

    def test_closed_thoughts_stand_where_the_engine_puts_them(
        self, learned: Learned, with_template, told: Told
    ) -> None:
        """The answer begins as the thoughts do: the common beginning would be too long."""
        assert learned(chat("One?", "<b>First</b>"), tokenizer=with_template(CLOSED_THOUGHTS)) == [
            "<|user|>\nOne?<|end|>\n<|assistant|>\n<think>\n\n</think>\n\n[<b>First</b><|end|>]\n"
        ]
        assert "otherwise than it shows one" in told.lines[0]

    @pytest.mark.parametrize(
        ("name", "asked", "learned_of_it", "samples"),
        [
            ("llama3_1", "assistant<|end_header_id|>\n\n", "Second.<|eot_id|>", 1),
            ("gemma3", "<start_of_turn>model\n", "Second.<end_of_turn>\n", 1),
            ("phi3_5", "<|assistant|>\n", "Second.", 2),
            ("qwen3", "<|im_start|>assistant\n", "<think>\n\n</think>\n\nSecond.<|im_end|>\n", 2),
            ("nemotron_3_nano", "<|im_start|>assistant\n<think>\n", "</think>Second.<|im_end|>\n", 2),
            ("gptoss", "<|start|>assistant", "<|channel|>final<|message|>Second.<|return|>", 2),
        ],
    )
    def test_templates_of_well_known_models(  # noqa: PLR0917 - fixtures
        self, learned: Learned, with_template, name: str, asked: str, learned_of_it: str, samples: int
    ) -> None:
        """TRL comes with them. Their special tokens are no tokens here, so that EOS ends what they write."""
        template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
        found = learned(chat("One?", "First.", "Two?", "Second."), tokenizer=with_template(template))
        assert len(found) == samples
        before, last = found[-1].rsplit("[", 1)
        assert before.endswith(asked)
        assert last.split("<|end|>]")[0] == learned_of_it

    def test_a_template_that_shows_nothing_of_a_text_is_refused(self, learned: Learned, with_template) -> None:
        seeing = with_template(
            "{% for m in messages %}{{ m.role }}:{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}"
        )
        with pytest.raises(Refused, match="does not show what an answer says"):
            learned(chat("One?", "First."), tokenizer=seeing)

    def test_a_template_that_hides_answers_is_refused(self, learned: Learned, with_template) -> None:
        hiding = with_template("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}")
        with pytest.raises(Refused, match="where an answer begins") as refused:
            learned(chat("One?", "First."), tokenizer=hiding)
        assert (refused.value.code, refused.value.detail) == ("unsupported_model", "data.jsonl, line 1")


class TestTools:
    def test_the_template_is_told_of_tools_and_calls(self, learned: Learned, with_template) -> None:
        knowing = with_template(
            "{% for t in tools %}{{ t.function.name }}{% endfor %}|"
            "{% for m in messages %}{{ m.role + ':' + m.content }}"
            "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ '<|end|>' }}{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}"
        )
        assert learned(WITH_TOOLS, tokenizer=knowing) == [
            (
                'add|user:1+1?<|end|>assistant:[{"name": "add", "arguments": {"a": 1, "b": 1}}<|end|>]'
                "tool:2<|end|>assistant:[Two.<|end|>]"
            )
        ]

    def test_a_template_without_tools_is_refused(self, learned: Learned) -> None:
        with pytest.raises(Refused, match="knows no tools") as refused:
            learned(chat("One?", "First."), WITH_TOOLS)
        assert refused.value.code == "unsupported_model"
        assert refused.value.detail == "data.jsonl, line 2: the template does not mention tools"


class TestCompletionsAndTexts:
    def test_prompt_is_not_learned_and_the_end_is(self, learned: Learned) -> None:
        line = {"prompt": "2 + 2 =", "completion": " 4"}
        assert learned(line) == ["2 + 2 =[ 4<|end|>]"]
        assert learned(line, loss_on="all")[0].endswith(" + 2 = 4<|end|>]")

    def test_no_token_crosses_the_border(self, write: Write, loaded: Load, tokenizer) -> None:
        (row,) = loaded(write([{"prompt": "the hero wal", "completion": "ks home"}])).train
        apart = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the hero wal", "ks home")]
        assert row.ids_T.tolist() == [*apart[0], *apart[1], tokenizer.eos_token_id]
        assert row.ids_T.tolist()[:-1] != tokenizer("the hero walks home")["input_ids"]

    def test_bos_stands_once_before_them(self, learned: Learned, llama_like) -> None:
        assert learned({"prompt": "", "completion": "hello"}, {"text": "hello"}, tokenizer=llama_like) == [
            "<|system|>[hello<|end|>]",
            "<|system|>[hello<|end|>]",
        ]

    def test_an_end_that_is_there_is_not_doubled(self, learned: Learned) -> None:
        assert learned({"text": "a story<|end|>"}, {"prompt": "a", "completion": " b<|end|>"}) == [
            "a[ story<|end|>]",
            "a[ b<|end|>]",
        ]

    def test_no_space_comes_between_prompt_and_completion(self, write: Write, loaded: Load, spaced, tmp_path) -> None:
        """A tokenizer with a dummy prefix would make ` blue` of the completion `blue`."""
        data = write([{"prompt": "red", "completion": "blue"}, {"prompt": "red", "completion": " blue"}])
        rows = loaded(data, tokenizer=spaced, folder=tmp_path).train
        tokens = [spaced.convert_ids_to_tokens(row.ids_T.tolist()) for row in rows]
        assert tokens == [["<s>", "▁red", "blue", "</s>"], ["<s>", "▁red", "▁blue", "</s>"]]
        assert [row.loss_T.tolist() for row in rows] == [[False, False, True, True]] * 2

    def test_the_first_token_is_never_learned(self, write: Write, loaded: Load) -> None:
        data = write([{"text": f"story number {number}"} for number in range(5)])
        (row,) = loaded(data, packing=True, loss_on="all").train
        starts = np.cumsum([0, *row.lengths[:-1]])
        assert len(row.lengths) == 5
        assert np.flatnonzero(~row.loss_T).tolist() == starts.tolist()

    def test_tokens_that_the_model_has_no_row_for_are_refused(self, write: Write, loaded: Load, tmp_path) -> None:
        (tmp_path / "config.json").write_text('{"vocab_size": 50}')
        with pytest.raises(Refused, match="does not know"):
            loaded(write([{"text": "the hero walks"}]), folder=tmp_path)


class TestKinds:
    def test_they_differ_from_line_to_line(self, write: Write, loaded: Load, tokenizer) -> None:
        data = loaded(write([chat("One?", "First."), {"text": "a story"}, {"prompt": "a", "completion": " b"}]))
        assert [shown(row, tokenizer) for row in data.train][1:] == ["a[ story<|end|>]", "a[ b<|end|>]"]
        assert data.facts.kinds == {"chat": 1, "text": 1, "completion": 1}
