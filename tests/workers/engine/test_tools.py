"""Calls of tools: what is text, what is a call, wherever the pieces end."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.openai import ChatBody, parse
from workers.engine.tools import Format, Listener, Toolbox, taught_by, toolbox

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("clock", "weather")]
CLOCK = '{"name": "clock", "arguments": {"zone": "é"}}'


def asked(**fields: Any) -> ChatBody:
    return parse({"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": TOOLS} | fields, ChatBody)


def heard(form: Format, *pieces: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Text shown as it came, text at the end, and the calls."""
    box = toolbox(asked())
    listener = Listener(Toolbox(form, box.tools, "weather"))
    shown = "".join(listener.push(piece) for piece in pieces)
    rest, calls = listener.end()
    return shown, rest, [(call.name, call.arguments) for call in calls]


class TestHermes:
    def test_text_is_shown_and_a_call_is_not(self):
        said = ["I look. <tool", "_call>", CLOCK, "</tool_call>"]
        assert heard(Format.HERMES, *said) == ("I look. ", "", [("clock", '{"zone": "é"}')])

    def test_several_calls(self):
        said = f"<tool_call>\n{CLOCK}\n</tool_call>\n<tool_call>{CLOCK}</tool_call>"
        assert [name for name, _ in heard(Format.HERMES, said)[2]] == ["clock", "clock"]

    @pytest.mark.parametrize(
        "said", ["<tool_call>{bad</tool_call>", '<tool_call>{"name": "other"}</tool_call>', "<tool_call>[1]", "a <tool"]
    )
    def test_what_is_no_call_after_all_is_text(self, said):
        shown, rest, calls = heard(Format.HERMES, said)
        assert (shown + rest, calls) == (said, [])

    @given(st.text("<tool_ca>l{}", max_size=40), st.lists(st.integers(0, 40), max_size=5))
    def test_no_text_is_lost_wherever_the_pieces_end(self, text, cuts):
        places = [0, *sorted(cuts), len(text)]
        pieces = [text[start:end] for start, end in pairwise(places)]
        shown, rest, calls = heard(Format.HERMES, *pieces)
        assert calls or shown + rest == text


class TestLlama:
    def test_an_answer_that_is_a_call(self):
        said = '{"name": "weather", "parameters": {"city": "Oslo"}}'
        assert heard(Format.LLAMA, said[:9], said[9:]) == ("", "", [("weather", '{"city": "Oslo"}')])

    def test_text_is_shown_at_once_and_braces_in_it_are_text(self):
        assert heard(Format.LLAMA, "A set: ", '{"name": "clock"}') == ('A set: {"name": "clock"}', "", [])

    def test_another_object_is_text_in_the_end(self):
        assert heard(Format.LLAMA, '{"answer": 5}') == ("", '{"answer": 5}', [])


class TestGuided:
    def test_a_named_function_gets_the_whole_text_as_arguments(self):
        assert heard(Format.ARGUMENTS, '{"a"', ": 1}") == ("", "", [("weather", '{"a": 1}')])

    def test_a_call_that_was_cut_off_is_text(self):
        assert heard(Format.CALL, '{"name": "clo') == ("", '{"name": "clo', [])
        assert heard(Format.CALL, CLOCK)[2] == [("clock", '{"zone": "é"}')]


class TestToolbox:
    def test_none_offers_nothing(self):
        assert toolbox(asked(tool_choice="none")) == Toolbox()

    def test_a_free_choice_is_not_guided(self):
        assert toolbox(asked()).schema is None
        assert toolbox(asked()).names == {"clock", "weather"}

    def test_a_required_call_is_one_of_those_on_offer(self):
        schema = toolbox(asked(tool_choice="required")).schema
        assert schema is not None
        assert [entry["properties"]["name"]["const"] for entry in schema["anyOf"]] == ["clock", "weather"]

    def test_references_of_a_functions_own_schema_still_lead_there(self):
        parameters = {"$defs": {"a": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/a"}}}
        tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
        schema = toolbox(asked(tools=tools, tool_choice="required")).schema
        assert "#/anyOf/0/properties/arguments/$defs/a" in json.dumps(schema)

    @pytest.mark.parametrize(
        ("template", "form"),
        [
            ("… <tool_call>{…}</tool_call>", Format.HERMES),
            ('… Respond in the format {"name": function name, "parameters": dictionary …}', Format.LLAMA),
            ("{{ tools | tojson }}", Format.NONE),
        ],
    )
    def test_the_format_is_the_one_that_the_template_teaches(self, template, form):
        assert taught_by(template) is form
