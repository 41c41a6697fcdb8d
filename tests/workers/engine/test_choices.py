"""What a request may ask for beside its text: several choices, log probabilities, penalties, JSON, tools."""

import concurrent.futures
import json
import os
import shutil
import time
from typing import Any

import pytest

from tests.workers.engine.conftest import YARD_TINY, StartEngine
from tests.workers.engine.running import RunningEngine

PROMPT = "def read_lines(path):\n"
HELLO = [{"role": "user", "content": "What is json.loads?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"$ref": "#/$defs/days"}},
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 9}},
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}

#: Teaches Hermes' format, and misbehaves when it is told to.
TOOLS_TEMPLATE = """{%- if tools %}{{ '<|system|>
' }}Functions: {{ tools | tojson }} Answer <tool_call>{"name": …, "arguments": …}</tool_call>{{ '<|end|>
' }}{% endif %}{% if messages[-1].content == 'loop' %}{% for i in range(90000) %}{% for j in range(90000) %}
{% endfor %}{% endfor %}{% elif messages[-1].content == 'explode' %}{{ 'x' * 10**10 }}
{% elif messages[-1].content == 'refuse' %}{{ raise_exception('not this') }}{% endif -%}
"""


@pytest.fixture(scope="module")
def talker(start_engine: StartEngine, tmp_path_factory: pytest.TempPathFactory) -> RunningEngine:
    """yard-tiny with a chat template that knows tools."""
    model = tmp_path_factory.mktemp("model") / "talker"
    shutil.copytree(YARD_TINY, model)
    template = model / "chat_template.jinja"
    template.write_text(TOOLS_TEMPLATE + template.read_text())
    return start_engine(parent_pid=os.getpid(), model_path=model, max_in_flight=16).wait_ready()


def chat(engine: RunningEngine, **body: Any) -> dict[str, Any]:
    """The answer of `/v1/chat/completions`."""
    answer = engine.post("/v1/chat/completions", **({"messages": HELLO} | body))
    assert answer.status_code == 200, answer.text
    whole: dict[str, Any] = answer.json()
    return whole


def deltas(engine: RunningEngine, *, index: int = 0, **body: Any) -> list[dict[str, Any]]:
    """The choices of one index in a streamed chat, one after the other."""
    chunks = engine.stream("/v1/chat/completions", **({"messages": HELLO} | body))
    return [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]


class TestSeveralChoices:
    def test_choice_i_is_what_the_seed_plus_i_gives(self, talker):
        asked = {"max_tokens": 12, "temperature": 1, "ignore_eos": True}
        whole = chat(talker, **asked, n=3, seed=40)
        assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
        texts = [choice["message"]["content"] for choice in whole["choices"]]
        assert texts == [chat(talker, **asked, seed=40 + i)["choices"][0]["message"]["content"] for i in range(3)]
        assert whole["usage"]["prompt_tokens"] == chat(talker, max_tokens=1)["usage"]["prompt_tokens"]
        assert whole["usage"]["completion_tokens"] == 36

    def test_streamed_each_choice_has_its_role_its_text_and_its_end(self, talker):
        asked: dict[str, Any] = {"max_tokens": 10, "temperature": 1, "n": 2, "seed": 3, "stop": ["\n\n"]}
        whole = chat(talker, **asked)["choices"]
        for index in range(2):
            heard = deltas(talker, index=index, **asked)
            assert heard[0]["delta"] == {"role": "assistant", "content": ""}
            text = "".join(choice["delta"].get("content", "") for choice in heard)
            assert text == whole[index]["message"]["content"]
            assert [choice["finish_reason"] for choice in heard if choice["finish_reason"]] == [
                whole[index]["finish_reason"]
            ]

    def test_choices_of_several_prompts_come_prompt_by_prompt(self, talker):
        asked = {"max_tokens": 6, "temperature": 0}
        both = talker.post("/v1/completions", prompt=[PROMPT, "import os\n"], n=2, **asked).json()["choices"]
        first, second = (talker.complete(prompt=prompt, **asked)["text"] for prompt in (PROMPT, "import os\n"))
        assert [choice["text"] for choice in both] == [first, first, second, second]


class TestLogprobs:
    def test_of_a_chat_the_tokens_joined_are_the_text(self, talker):
        choice = chat(talker, max_tokens=40, temperature=0, logprobs=True, top_logprobs=2)["choices"][0]
        content = choice["logprobs"]["content"]
        assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == choice["message"]["content"]
        for entry in content:
            best, second = entry["top_logprobs"]
            assert (best["token"], best["logprob"]) == (entry["token"], entry["logprob"])  # greedy takes the best
            assert best["logprob"] >= second["logprob"]

    def test_streamed_they_are_the_same(self, talker):
        asked: dict[str, Any] = {"max_tokens": 20, "seed": 8, "logprobs": True, "top_logprobs": 1, "stop": ["zzz"]}
        whole = chat(talker, **asked)["choices"][0]
        heard = [choice["logprobs"] for choice in deltas(talker, **asked) if choice["logprobs"]]
        assert [entry for part in heard for entry in part["content"]] == whole["logprobs"]["content"]

    def test_they_do_not_depend_on_the_temperature(self, talker):
        asked = {"prompt": PROMPT, "max_tokens": 1, "logprobs": 5, "seed": 1}
        cold, hot = (
            talker.complete(**asked, temperature=temperature)["logprobs"]["top_logprobs"][0] for temperature in (0, 2)
        )
        assert all(hot[token] == pytest.approx(value, abs=1e-4) for token, value in cold.items() if token in hot)

    def test_of_a_completion_they_have_openais_old_form(self, talker):
        choice = talker.complete(prompt=PROMPT, max_tokens=8, temperature=0, logprobs=0)
        logprobs = choice["logprobs"]
        assert "".join(logprobs["tokens"]) == choice["text"]
        assert logprobs["top_logprobs"] == [
            {token: value} for token, value in zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True)
        ]
        for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
            assert choice["text"].startswith(token, offset)


class TestEndings:
    def test_a_stop_token_ends_the_text_before_it(self, talker):
        asked = {"prompt": PROMPT, "temperature": 0, "ignore_eos": True, "logprobs": 0}
        tokens = talker.complete(**asked, max_tokens=6)["logprobs"]["tokens"]
        number = self.number_of(talker, tokens[3])
        ended = talker.complete(**asked, max_tokens=6, stop_token_ids=[number])
        assert ended["finish_reason"] == "stop"
        assert ended["logprobs"]["tokens"] == tokens[: tokens.index(tokens[3])]
        assert ended["usage"]["completion_tokens"] == tokens.index(tokens[3]) + 1

    @staticmethod
    def number_of(engine: RunningEngine, token: str) -> int:
        vocabulary = json.loads((engine.config.model_path / "tokenizer.json").read_bytes())["model"]["vocab"]
        return int(vocabulary[token.replace(" ", "Ġ").replace("\n", "Ċ")])

    def test_nothing_ends_a_text_before_min_tokens(self, talker):
        asked = {"prompt": PROMPT, "max_tokens": 30, "temperature": 0, "stop": ["e", "s", " "]}
        assert talker.complete(**asked)["usage"]["completion_tokens"] < 12
        patient = talker.complete(**asked, min_tokens=12)
        assert patient["usage"]["completion_tokens"] >= 12

    def test_penalties_change_what_a_greedy_text_repeats(self, talker):
        asked = {"prompt": "x = [1, 1, 1, 1, 1,", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
        tokens = [
            talker.complete(**asked, **penalty, logprobs=0)["logprobs"]["tokens"]
            for penalty in ({}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"repetition_penalty": 2.0})
        ]
        plain, *others = [len(set(said)) for said in tokens]
        assert all(other > plain for other in others)

    def test_a_bias_decides(self, talker):
        number = self.number_of(talker, " self")
        choice = talker.complete(prompt=PROMPT, max_tokens=3, temperature=1, logit_bias={str(number): 100})
        assert choice["text"] == " self" * 3


class TestJson:
    @pytest.mark.parametrize("temperature", [0, 1])
    @pytest.mark.parametrize(
        "form",
        [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}],
        ids=["object", "schema"],
    )
    def test_an_answer_that_ends_parses(self, talker, form, temperature):
        whole = chat(talker, response_format=form, temperature=temperature, max_tokens=120, n=4, seed=5)
        ended = [choice for choice in whole["choices"] if choice["finish_reason"] != "length"]
        for choice in ended:
            answer = json.loads(choice["message"]["content"])
            assert isinstance(answer, dict)
            if form["type"] == "json_schema":
                assert set(answer) == {"name", "age"}
        assert ended or form["type"] == "json_object"  # a free object may go on for ever

    def test_who_asks_for_json_changes_nothing_for_the_others(self, talker):
        asked = {"prompt": PROMPT, "max_tokens": 40, "temperature": 1, "seed": 9, "ignore_eos": True}
        alone = talker.complete(**asked)["text"]
        form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            strict = [pool.submit(chat, talker, response_format=form, temperature=1, seed=i) for i in range(4)]
            texts = [pool.submit(talker.complete, **asked) for _ in range(3)]
        assert {text.result()["text"] for text in texts} == {alone}
        assert all(json.loads(answer.result()["choices"][0]["message"]["content"]) for answer in strict)

    @pytest.mark.parametrize(
        ("schema", "extra", "param"),
        [
            ({"type": "frob"}, {}, "response_format.json_schema.schema"),
            ({"not": {}}, {}, "response_format.json_schema.schema"),
            ({"$ref": "http://example.com"}, {}, "response_format.json_schema.schema"),
            (PERSON, {"ignore_eos": True}, "ignore_eos"),
            (PERSON, {"min_tokens": 5}, "min_tokens"),
            (PERSON, {"tools": [CLOCK]}, "response_format"),
        ],
    )
    def test_what_cannot_be_followed_is_refused_by_name(self, talker, schema, extra, param):
        form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        answer = talker.post("/v1/chat/completions", messages=HELLO, response_format=form, **extra)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


class TestTools:
    def test_a_named_function_gets_arguments_that_fit_it(self, talker):
        choice = {"type": "function", "function": {"name": "weather"}}
        answer = chat(talker, tools=[CLOCK, WEATHER], tool_choice=choice, seed=1)["choices"][0]
        [call] = answer["message"]["tool_calls"]
        assert (answer["finish_reason"], answer["message"]["content"]) == ("tool_calls", None)
        assert (call["type"], call["function"]["name"]) == ("function", "weather")
        self.check(call)

    @pytest.mark.parametrize("seed", range(3))
    def test_a_required_call_is_one_of_those_on_offer_streamed_or_not(self, talker, seed):
        asked = {"tools": [CLOCK, WEATHER], "tool_choice": "required", "seed": seed, "temperature": 1.5}
        answer = chat(talker, **asked)["choices"][0]
        [call] = answer["message"]["tool_calls"]
        self.check(call)
        *_, last = deltas(talker, **asked)
        assert last["finish_reason"] == answer["finish_reason"] == "tool_calls"
        [streamed] = last["delta"]["tool_calls"]
        assert (streamed["index"], streamed["function"]) == (0, call["function"])

    @staticmethod
    def check(call: dict[str, Any]) -> None:
        arguments = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "weather":
            assert arguments["city"] in {"Oslo", "Rome"}
            assert 1 <= arguments["days"] <= 9
        else:
            assert arguments == {}

    def test_tools_make_the_prompt_longer_and_none_leaves_them_out(self, talker):
        plain, offered, none = (
            chat(talker, max_tokens=1, **tools)["usage"]["prompt_tokens"]
            for tools in ({}, {"tools": [CLOCK]}, {"tools": [CLOCK], "tool_choice": "none"})
        )
        assert offered > plain == none

    def test_a_template_without_tools_says_so(self, engine):
        answer = engine.post("/v1/chat/completions", messages=HELLO, tools=[CLOCK])
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")
        assert answer.json()["error"]["param"] == "tools"


class TestTemplates:
    @pytest.mark.parametrize("bad", ["loop", "explode", "refuse"])
    def test_a_template_that_does_not_come_to_an_end_is_the_chats_fault(self, talker, bad):
        # Given somebody who reads a long stream meanwhile
        with concurrent.futures.ThreadPoolExecutor() as pool:
            other = pool.submit(talker.complete, prompt=PROMPT, max_tokens=60, ignore_eos=True)
            # When the template does what it should not
            began = time.monotonic()
            answer = talker.post("/v1/chat/completions", messages=[{"role": "user", "content": bad}])
            # Then the chat is refused soon, and the others go on
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
            assert time.monotonic() - began < 9
            assert other.result()["usage"]["completion_tokens"] == 60
        assert chat(talker, max_tokens=1)


class TestUsage:
    def test_a_prompt_seen_before_is_cached(self, talker):
        prompt = "the quick brown fox jumps over the lazy dog\n" * 12
        first, again = (talker.complete(prompt=prompt, max_tokens=2)["usage"] for _ in range(2))
        assert first["prompt_tokens_details"] == {"cached_tokens": 0}
        assert 0 < again["prompt_tokens_details"]["cached_tokens"] < again["prompt_tokens"]
