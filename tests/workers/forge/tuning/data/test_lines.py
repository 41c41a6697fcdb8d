from typing import Any

import pytest

from tests.workers.forge.tuning.data.conftest import Load, Write, chat
from workers.forge.refusing import Refused

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def said(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [*messages, {"role": "assistant", "content": "Yes."}], **more}


class TestBadLines:
    @pytest.mark.parametrize(
        ("line", "why"),
        [
            (b"{", "not JSON"),
            (b"[1]", "not an object"),
            (b'{"text": "\xff"}', "not UTF-8 at byte 11"),
            ({}, "it is empty"),
            ({"input": {}, "preferred_output": []}, "it has input, preferred_output"),
            ({"prompt": "a"}, "needs messages, or prompt and completion, or text; it has prompt"),
            ({"text": "a", "messages": []}, "has messages and text, which is to be learned?"),
            ({"text": ""}, "text is empty"),
            ({"text": 3}, "text is not a string"),
            ({"prompt": "a", "completion": ""}, "completion is empty"),
            ({"prompt": "a", "completion": [{}]}, "completion is not a string"),
            ({"prompt": [{"role": "user", "content": "a"}], "completion": "b"}, "completion is not a list of messages"),
            ({"messages": []}, "messages is not a list of messages"),
            (
                said({"role": "bot", "content": "a"}),
                "messages[0].role is not one of assistant, developer, system",
            ),
            (said({"role": "user"}), "messages[0] needs a content"),
            (said({"role": "user", "content": [{"type": "image_url"}]}), "messages[0] has a part that is not text"),
            (said({"role": "user", "content": "a", "audio": {}}), "messages[0].audio is not supported"),
            (said({"role": "user", "content": "a", "weight": 1}), "weight is for messages of the assistant"),
            (said({"role": "assistant", "content": "a", "weight": 0.5}), "messages[0].weight is neither 0 nor 1"),
            (said({"role": "assistant", "content": "a", "weight": True}), "messages[0].weight is neither 0 nor 1"),
            (said({"role": "user", "content": "a", "name": 1}), "messages[0].name is not a string"),
            (said({"role": "tool", "content": "a"}), "tool_call_id goes with role tool"),
            (said({"role": "user", "content": "a", "tool_calls": [CALL]}), "tool_calls is for messages of"),
            (said({"role": "assistant", "tool_calls": [{"id": "c"}]}), "messages[0].tool_calls: `0.function`"),
            (said({"role": "user", "content": "a"}, tools=[{"type": "retrieval"}]), "tools: `0.type`"),
            (said({"role": "user", "content": "a"}, functions=[]), "functions are not supported: give tools"),
            (said({"role": "user", "content": "a"}, parallel_tool_calls=1), "parallel_tool_calls is not true or false"),
            ({"messages": [{"role": "user", "content": "a"}]}, "has no message of the assistant to learn from"),
            ({"messages": [{"role": "assistant", "content": "a", "weight": 0}]}, "has no message of the assistant"),
        ],
    )
    def test_each_is_named_with_what_is_wrong(self, write: Write, loaded: Load, line: Any, why: str) -> None:
        with pytest.raises(Refused) as refused:
            loaded(write([chat("One?", "First."), b"", line]))
        assert (refused.value.code, refused.value.title) == ("invalid_data", "1 of the 2 lines cannot be used")
        assert refused.value.detail.startswith("data.jsonl, line 3: ")
        assert why in refused.value.detail

    def test_arguments_that_no_template_can_be_sent_are_refused(self, write: Write, loaded: Load) -> None:
        deep = CALL | {"function": {"name": "f", "arguments": '{"a":' * 300 + "1" + "}" * 300}}
        with pytest.raises(Refused, match=r"messages\[0\].tool_calls"):
            loaded(write([said({"role": "assistant", "tool_calls": [deep]})]))

    def test_twenty_are_named_of_all_files_and_the_others_counted(self, write: Write, loaded: Load) -> None:
        files = [write([{"text": ""}] * 15 + [{"text": "fine"}], name=name) for name in ("a", "b")]
        with pytest.raises(Refused) as refused:
            loaded(*files)
        assert refused.value.title == "30 of the 32 lines cannot be used"
        assert refused.value.detail.count("text is empty") == 20
        assert "a, line 15: text is empty; b, line 1: text is empty" in refused.value.detail
        assert refused.value.detail.endswith("; and 10 more")

    @pytest.mark.parametrize("loss_on", ["completion", "assistant"])
    def test_a_text_has_no_answer(self, write: Write, loaded: Load, loss_on: str) -> None:
        with pytest.raises(Refused, match="is a text, of which loss_on"):
            loaded(write([{"text": "a story"}]), loss_on=loss_on)

    def test_validation_data_is_looked_at_too(self, write: Write, loaded: Load) -> None:
        with pytest.raises(Refused, match="held, line 1"):
            loaded(write([{"text": "a story"}]), validation=[write([{}], name="held")])


class TestGoodLines:
    def test_other_keys_and_nulls_are_let_be(self, write: Write, loaded: Load) -> None:
        message = {"role": "assistant", "content": [{"type": "text", "text": "First."}], "refusal": None, "name": "bo"}
        line = {"id": 7, "text": None, "tools": None, "messages": [{"role": "user", "content": "One?"}, message]}
        assert loaded(write([line])).facts.kept == 1

    def test_developer_is_system_where_the_template_knows_none(self, write: Write, loaded: Load, tokenizer) -> None:
        line = {"messages": [{"role": "developer", "content": "Be brief."}, *chat("One?", "First.")["messages"]]}
        assert tokenizer.decode(loaded(write([line])).train[0].ids_T).startswith("<|system|>\nBe brief.")


class TestNothing:
    @pytest.mark.parametrize("lines", [[], [b"", b"  "]])
    def test_there_must_be_lines(self, write: Write, loaded: Load, lines: list[bytes]) -> None:
        with pytest.raises(Refused, match="nothing to learn") as refused:
            loaded(write(lines))
        assert (refused.value.code, refused.value.detail) == ("not_enough_data", "the data has no lines")

    def test_validation_data_must_have_some(self, write: Write, loaded: Load) -> None:
        with pytest.raises(Refused, match="no validation data"):
            loaded(write([{"text": "a story"}]), validation=[write([], name="held")])

    def test_what_preparation_left_out_is_told(self, write: Write, loaded: Load) -> None:
        with pytest.raises(Refused) as refused:
            loaded(write([{"text": "short"}, {"text": "Short"}]), preparation={"min_characters": 10})
        assert (refused.value.code, refused.value.detail) == (
            "not_enough_data",
            "samples left out: 1 duplicate, 1 too_short",
        )
