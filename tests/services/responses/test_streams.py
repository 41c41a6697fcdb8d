import time
from itertools import groupby
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.responses.streams import DONE, PIECE, assembled, kept, replayed, whole
from services.responses.types import Stored
from tests.services.responses import answers

TOKENS = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}], "refusal": None}
END: dict[str, Any] = {"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}
CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}},
    {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
]


def chunks(stored: Stored, *, include_usage: bool = True) -> list[dict[str, Any]]:
    """The chunks of a replay, `[DONE]` checked and taken off."""
    *events, done = replayed(stored, model="mine", include_usage=include_usage)
    assert done == DONE
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in events)
    return [orjson.loads(event[6:]) for event in events]


def stream(*news: dict[str, Any], kind: str = "chat.completion.chunk", usage: Any = answers.USAGE) -> bytes:
    """A stream from an engine: one chunk for each choice's news, usage, the end."""
    head = {"id": "chatcmpl-x", "object": kind, "created": 5, "model": "digest"}
    told = [head | {"choices": [each]} for each in news]
    told += [head | {"choices": [], "usage": usage}] if usage else []
    return b"".join(b"data: " + orjson.dumps(each) + b"\n\n" for each in told) + DONE


def comparable(answer: Any) -> Any:
    return {name: value for name, value in answer.items() if name not in {"id", "created", "model"}}


def again(stored: Stored) -> Any:
    """What a stored answer is after it was streamed and put together."""
    back = assembled(b"".join(replayed(stored, model="mine", include_usage=True)))
    assert back is not None
    return comparable(back.json())


class TestWhole:
    def test_is_the_stored_answer_as_if_it_were_new(self):
        stored = answers.chat("Hi")
        told = orjson.loads(whole(stored, model="mine"))
        assert comparable(told) == comparable(stored.json())
        assert told["model"] == "mine"
        assert told["id"].startswith("chatcmpl-")
        assert told["id"] != "chatcmpl-old" != orjson.loads(whole(stored, model="mine"))["id"]
        assert abs(told["created"] - time.time()) < 5

    def test_of_an_embedding_has_neither_id_nor_time(self):
        told = orjson.loads(whole(answers.embedding(), model="mine"))
        assert told == answers.embedding().json() | {"model": "mine"}


class TestReplay:
    def test_begins_with_the_role_comes_in_pieces_and_ends_with_usage(self):
        first, *pieces, last, usage = chunks(answers.chat("x" * (2 * PIECE + 1)))
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert [len(piece["choices"][0]["delta"]["content"]) for piece in pieces] == [PIECE, PIECE, 1]
        assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
        assert (usage["choices"], usage["usage"]) == ([], answers.USAGE)
        assert first["usage"] is None

    def test_tells_no_usage_unless_asked(self):
        assert not any("usage" in chunk for chunk in chunks(answers.chat("Hi"), include_usage=False))

    def test_all_chunks_are_of_one_answer(self):
        told = chunks(answers.chat("one", "two"))
        assert {chunk["object"] for chunk in told} == {"chat.completion.chunk"}
        assert {chunk["model"] for chunk in told} == {"mine"}
        assert len({chunk["id"] for chunk in told}) == 1

    def test_of_a_completion_has_texts(self):
        told = chunks(answers.completion("one", "two"))
        news = [choice for chunk in told for choice in chunk["choices"]]
        texts = ["".join(n["text"] for n in group) for _, group in groupby(news, key=lambda n: n["index"])]
        assert texts == ["one", "two"]
        assert {chunk["object"] for chunk in told} == {"text_completion"}


class TestThereAndBack:
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), min_size=1, max_size=3))
    def test_texts(self, texts: list[str]):
        assert again(answers.chat(*texts)) == comparable(answers.chat(*texts).json())
        assert again(answers.completion(*texts)) == comparable(answers.completion(*texts).json())

    @pytest.mark.parametrize(
        "stored",
        [
            answers.chat("a", logprobs=TOKENS),
            answers.completion("a", logprobs={"tokens": ["a"], "token_logprobs": [-1.0], "text_offset": [0]}),
            answers.chat("", message={"role": "assistant", "content": None, "refusal": None, "tool_calls": CALLS}),
            answers.chat("", message={"role": "assistant", "content": "4", "refusal": None, "reasoning": "2+2"}),
            answers.chat("a", stop_reason="END"),
        ],
        ids=["chat logprobs", "completion logprobs", "tool calls", "reasoning", "stop reason"],
    )
    def test_everything_else(self, stored: Stored):
        assert again(stored) == comparable(stored.json())


class TestAssembled:
    def test_pieces_of_several_choices_in_any_order(self):
        told = stream(
            {"index": 1, "delta": {"role": "assistant", "content": ""}},
            {"index": 0, "delta": {"role": "assistant", "content": ""}},
            {"index": 1, "delta": {"content": "B"}},
            {"index": 0, "delta": {"content": "A"}, "finish_reason": None},
            {"index": 1, "delta": {"content": "b"}, "finish_reason": "length"},
            {"index": 0, "delta": {}, "finish_reason": "stop"},
        )
        answer = assembled(b": ping\n\n" + told)
        assert answer is not None
        first, second = answer.json()["choices"]
        assert (first["message"]["content"], first["finish_reason"]) == ("A", "stop")
        assert (second["message"]["content"], second["finish_reason"]) == ("Bb", "length")
        assert (answer.json()["object"], answer.json()["usage"]) == ("chat.completion", answers.USAGE)

    def test_a_tool_call_whose_arguments_come_in_pieces(self):
        def news(**function: str) -> dict[str, Any]:
            return {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": function}]}}

        begin = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add"}}
        told = stream(
            {"index": 0, "delta": {"role": "assistant", "content": None, "tool_calls": [begin]}},
            news(arguments='{"a"'),
            news(arguments=": 1}"),
            {"index": 0, "delta": {}, "finish_reason": "tool_calls"},
        )
        answer = assembled(told)
        assert answer is not None
        (choice,) = answer.json()["choices"]
        assert choice["message"]["content"] is None
        assert choice["message"]["tool_calls"] == [
            {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
        ]

    def test_log_probabilities_are_joined(self):
        told = stream(
            {"index": 0, "text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}},
            {"index": 0, "text": "b", "logprobs": {"tokens": ["b"], "token_logprobs": [-2.0]}, "finish_reason": "stop"},
            kind="text_completion",
        )
        answer = assembled(told)
        assert answer is not None
        assert answer.json()["choices"][0]["logprobs"] == {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0]}

    @pytest.mark.parametrize(
        "events",
        [
            stream(END).removesuffix(DONE),
            stream(END, usage=None),
            stream(END | {"finish_reason": None}),
            stream(END | {"finish_reason": "abort"}),
            stream(END).replace(DONE, b'data: {"error": {"message": "engine died"}}\n\n' + DONE),
            stream(),
            DONE,
            b"",
        ],
        ids=["broken off", "no usage", "no end", "aborted", "failed", "no choice", "nothing", "empty"],
    )
    def test_what_is_not_whole_is_not_kept(self, events: bytes):
        assert assembled(events) is None


class TestKept:
    def test_a_whole_answer(self):
        for stored in (answers.chat("a", "b"), answers.completion("a"), answers.embedding()):
            assert kept(stored.body) == stored

    def test_an_aborted_choice_spoils_it(self):
        assert kept(answers.chat("a", finish_reason="abort").body) is None
