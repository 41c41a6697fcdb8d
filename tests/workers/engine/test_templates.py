"""Chat templates: rendered as transformers would, in a process that may be killed for it."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from transformers import AutoTokenizer

from shared.contracts.openai import Message, Tool, ToolCall
from tests.workers.engine.conftest import YARD_TINY
from workers.engine.errors import InvalidRequest, UnsupportedParameter
from workers.engine.templates import Renderer, context_of, template_of

T = TypeVar("T")

TOOL = Tool.model_validate({"type": "function", "function": {"name": "f", "description": "a <b>"}})
CALL = ToolCall.model_validate({"id": "1", "function": {"name": "f", "arguments": '{"x": "é"}'}})
CHAT = [
    Message(role="developer", content="Be brief."),
    Message(role="user", content="é <x> 漢"),
    Message(role="assistant", tool_calls=[CALL]),
    Message(role="tool", content="5", tool_call_id="1"),
]
#: One of each thing that templates in use do.
EVERYTHING = """{{- bos_token }}
{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- set ns = namespace(last='') %}
{%- for message in messages -%}
{% if message.role == 'system' %}{% continue %}{% endif %}
    {{- '<|' + message['role'] + '|>' + (message.content | trim) }}
    {%- for call in message.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}
    {%- set ns.last = message.role %}
    {%- generation %}{{ loop.index }}{% endgeneration %}
{%- endfor %}
{{ ns.last }}{{ strftime_now('%Y')[:0] }}{% if add_generation_prompt %}<|assistant|>{% endif %}
"""
HOSTILE = {
    "a loop in a loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a long string": "{{ 'a' * 10**10 }}",
    "doubling": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a wide format": "{{ '%1000000000d' | format(1) }}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a way out of the sandbox": "{{ ().__class__.__mro__ }}",
    "what is not there": "{{ messages[9].x.y }}",
    "no template at all": "{% bad",
    "too much text": "{% for i in range(99999) %}{{ '0123456789' * 100 }}{% endfor %}",
}


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(YARD_TINY)


async def rendered(template: str, context: dict[str, Any]) -> str:
    renderer = Renderer()
    try:
        return await renderer.render(template, context)
    finally:
        renderer.close()


class TestSame:
    @pytest.mark.parametrize("template", [EVERYTHING, (YARD_TINY / "chat_template.jinja").read_text()])
    def test_the_text_is_what_transformers_makes(self, tokenizer, template):
        context = context_of(tokenizer, template, CHAT, [TOOL])
        theirs = tokenizer.apply_chat_template(
            context["messages"],
            tools=context["tools"],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
        assert run(rendered(template, context)) == theirs


class TestContext:
    def test_a_developer_is_a_system_where_the_template_knows_none(self, tokenizer):
        assert context_of(tokenizer, "", CHAT, [])["messages"][0]["role"] == "system"
        assert context_of(tokenizer, "'developer'", CHAT, [])["messages"][0]["role"] == "developer"

    def test_arguments_of_a_call_are_an_object(self, tokenizer):
        turn = context_of(tokenizer, "", CHAT, [])["messages"][2]
        assert turn["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": "é"}}

    def test_a_template_that_knows_no_tools_is_told_from_one_that_does(self, tokenizer):
        assert template_of(tokenizer, with_tools=False) == tokenizer.chat_template
        with pytest.raises(UnsupportedParameter) as refused:
            template_of(tokenizer, with_tools=True)
        assert refused.value.param == "tools"


class TestHostile:
    @pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
    def test_it_is_refused_and_soon(self, template):
        began = time.monotonic()
        with pytest.raises(InvalidRequest, match="chat template refuses") as refused:
            run(rendered(template, {"messages": []}))
        assert refused.value.param == "messages"
        assert time.monotonic() - began < 9

    def test_a_template_says_why_it_refuses(self):
        with pytest.raises(InvalidRequest, match="two users in a row"):
            run(rendered("{{ raise_exception('two users in a row') }}", {}))

    def test_the_next_chat_is_served_even_when_the_process_had_to_be_killed(self, monkeypatch):
        monkeypatch.setattr("workers.engine.templates._PATIENCE_S", 0.3)

        async def both() -> str:
            renderer = Renderer()
            with pytest.raises(InvalidRequest):
                await renderer.render("{{ 3 ** (10 ** 9) }}", {})  # one operation, which no timer interrupts
            monkeypatch.setattr("workers.engine.templates._PATIENCE_S", 20)
            try:
                return await renderer.render("{{ word }}", {"word": "fine"})
            finally:
                renderer.close()

        assert run(both()) == "fine"

    def test_chats_that_come_together_get_each_their_own_text(self):
        async def many() -> list[str]:
            renderer = Renderer()
            try:
                return await asyncio.gather(*(renderer.render("{{ n }}", {"n": n}) for n in range(50)))
            finally:
                renderer.close()

        assert run(many()) == [str(n) for n in range(50)]
