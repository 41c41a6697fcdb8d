import pytest

from tests.workers.forge.data.conftest import Write
from workers.forge.data.reading import Turn
from workers.forge.data.tasks import Choice, Prompt, read_choices, read_prompts, read_texts
from workers.forge.refusing import Refused

ASKED = [{"role": "user", "content": "2 + 2?"}]


class TestTexts:
    def test_files_follow_one_another(self, write: Write) -> None:
        data = [write([{"text": "a"}, {"text": "b"}], name="one"), write([{"text": "c"}], name="two")]
        assert [(text.content, text.source) for text in read_texts(data)] == [("a", "one"), ("b", "one"), ("c", "two")]

    @pytest.mark.parametrize("read", [read_texts, read_choices, read_prompts])
    def test_nothing_at_all_is_refused(self, write: Write, read) -> None:
        with pytest.raises(Refused) as refused:
            read([write([], name="one"), write([b""], name="two")])
        assert (refused.value.code, refused.value.detail) == ("not_enough_data", "one, two: no lines")


class TestChoices:
    def test_choice_is_read(self, write: Write) -> None:
        data = write([{"prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": 1, "subject": "sums"}])
        assert read_choices([data]) == [Choice("2 + 2 =", (" 3", " 4"), 1, "data.jsonl", 1)]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"choices": [" 3"]}, "choices has fewer than two"),
            ({"choices": [" 3", 4]}, "choices is not a list of strings"),
            ({"choices": [" 3", ""]}, "choices is not a list of strings"),
            ({"choices": " 3"}, "choices is not a list of strings"),
            ({"answer": 2}, "answer is not the index of a choice, 0 to 1"),
            ({"answer": -1}, "answer is not the index"),
            ({"answer": True}, "answer is not the index"),
            ({"answer": "B"}, "answer is not the index"),
            ({"prompt": ""}, "prompt is empty"),
            ({"prompt": ASKED}, "prompt is not a string"),
        ],
    )
    def test_what_is_wrong_is_named(self, write: Write, change, reason) -> None:
        with pytest.raises(Refused) as refused:
            read_choices([write([{"prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": 1} | change])])
        assert refused.value.code == "invalid_data"
        assert refused.value.detail.startswith(f"data.jsonl: line 1: {reason}")

    def test_what_is_missing_is_named(self, write: Write) -> None:
        with pytest.raises(Refused, match="needs prompt, choices and answer; it has question, choices"):
            read_choices([write([{"question": "2 + 2", "choices": ["3", "4"]}])])


class TestPrompts:
    def test_prompts_and_chats_are_read(self, write: Write) -> None:
        data = write([{"prompt": "2 + 2 =", "answer": "4"}, {"messages": ASKED, "answers": ["4", "four"]}])
        assert read_prompts([data]) == [
            Prompt(("4",), "2 + 2 =", None, "data.jsonl", 1),
            Prompt(("4", "four"), None, (Turn("user", "2 + 2?"),), "data.jsonl", 2),
        ]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ({"prompt": "x"}, "needs prompt or messages, and answer or answers; it has prompt"),
            ({"prompt": "x", "messages": ASKED, "answer": "4"}, "needs prompt or messages"),
            ({"prompt": "x", "answer": "4", "answers": ["4"]}, "needs prompt or messages"),
            ({"prompt": "x", "answers": []}, "answers is not a list of strings"),
            ({"prompt": "x", "answer": ""}, "answer is empty"),
            ({"prompt": "", "answer": "4"}, "prompt is empty"),
            ({"messages": [], "answer": "4"}, "messages is not a list of messages"),
        ],
    )
    def test_what_is_wrong_is_named(self, write: Write, line, reason) -> None:
        with pytest.raises(Refused) as refused:
            read_prompts([write([line])])
        assert refused.value.detail.startswith(f"data.jsonl: line 1: {reason}")
