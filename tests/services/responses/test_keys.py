from typing import Any
from uuid import UUID, uuid4

import pytest

from services.responses.keys import key_of
from services.responses.types import Key
from shared.contracts.caching import CacheWish, take
from shared.contracts.openai import AnyBody, BadRequest, ChatBody, CompletionBody, EmbeddingBody, parse

TENANT = uuid4()
ALWAYS = CacheWish(mode="on")
HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
TEXT = {"model": "m", "prompt": "Hello", "temperature": 0}


def key(fields: dict[str, Any], *, kind: type[AnyBody] = ChatBody, tenant: UUID = TENANT, **of: Any) -> Key | None:
    return key_of(parse(fields, kind), tenant_id=tenant, **{"digest": "d", "wish": ALWAYS, **of})


def chat(**fields: Any) -> Key | None:
    return key(HELLO | fields)


def text(**fields: Any) -> Key | None:
    return key(TEXT | fields, kind=CompletionBody)


def say(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content, **more}]}


class TestSameAnswer:
    @pytest.mark.parametrize(
        "spelling",
        [
            {"model": "another-name"},
            {"stream": True, "stream_options": {"include_usage": True}},
            {"user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "prompt_cache_key": "k"},
            {"n": 1, "top_p": 1, "presence_penalty": 0.0, "stop": None, "logit_bias": {}, "tools": []},
            {"temperature": 0.0},
            {"seed": 7, "top_p": 0.5, "top_k": 3, "min_p": 0.1},
            {"stop": []},
            {"response_format": {"type": "text"}},
            {"tool_choice": "none"},
            say([{"type": "text", "text": "Hello"}]),
            say("Hello", name=None),
        ],
        ids=str,
    )
    def test_of_a_chat(self, spelling: dict[str, Any]):
        assert chat(**spelling) == chat()

    def test_of_a_limit_under_either_name(self):
        assert chat(max_tokens=5) == chat(max_completion_tokens=5) != chat()

    def test_of_one_stop_string_or_a_list_of_one(self):
        assert chat(stop="a") == chat(stop=["a"]) != chat()

    def test_of_biases_in_any_order(self):
        assert chat(logit_bias={"1": 2, "3": 4}) == chat(logit_bias={"3": 4.0, "1": 2.0}) != chat(logit_bias={"1": 2})

    def test_of_a_prompt_or_a_list_of_one(self):
        assert text() == text(prompt=["Hello"], top_k=-1)
        assert text(prompt=[1, 2]) == text(prompt=[[1, 2]]) != text(prompt=[[1], [2]])

    def test_of_an_embedding(self):
        one = key({"model": "m", "input": "a"}, kind=EmbeddingBody)
        assert one == key({"model": "n", "input": ["a"], "encoding_format": "float"}, kind=EmbeddingBody)
        assert one != key({"model": "m", "input": "a", "encoding_format": "base64"}, kind=EmbeddingBody)


class TestAnotherAnswer:
    @pytest.mark.parametrize(
        "change",
        [
            say("hello"),
            say([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]),
            {"messages": [{"role": "system", "content": "Hello"}]},
            {"n": 2},
            {"logprobs": True},
            {"logprobs": True, "top_logprobs": 2},
            {"temperature": 0.5, "seed": 1},
            {"repetition_penalty": 1.1},
            {"ignore_eos": True},
            {"response_format": {"type": "json_object"}},
        ],
        ids=str,
    )
    def test_of_a_chat(self, change: dict[str, Any]):
        assert chat(**change) != chat()

    def test_of_a_sampled_one_with_another_seed(self):
        assert chat(temperature=1, seed=1) != chat(temperature=1, seed=2) != chat(temperature=1, seed=2, top_p=0.5)

    def test_of_a_schema_in_another_order(self):
        def shaped(*names: str) -> Key | None:
            schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
            return chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})

        assert shaped("a", "b") == shaped("a", "b") != shaped("b", "a")

    def test_of_another_route(self):
        assert chat() != text()

    def test_of_other_weights(self):
        assert key(HELLO) != key(HELLO, digest="e") != key(HELLO, digest="e", adapter="a")

    def test_of_another_tenant(self):
        other = key(HELLO, tenant=uuid4())
        mine = key(HELLO)
        assert other is not None
        assert mine is not None
        assert other.sha256 != mine.sha256

    def test_lone_surrogates_in_free_json_are_a_key_too(self):
        tool = {"type": "function", "function": {"name": "f", "parameters": {"title": "\ud800"}}}
        assert chat(tools=[tool]) != chat()


class TestWhoGetsOne:
    @pytest.mark.parametrize(("mode", "given"), [("auto", False), ("on", True), ("refresh", True), ("off", False)])
    def test_a_sampled_answer_is_kept_only_when_asked(self, mode: Any, given: bool):
        body = parse(HELLO | {"temperature": 1}, ChatBody)
        wished = key_of(body, tenant_id=TENANT, digest="d", wish=CacheWish(mode=mode))
        assert (wished is not None) is given

    @pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 1, "seed": 0}])
    def test_a_deterministic_one_is_kept_unless_switched_off(self, fields: dict[str, Any]):
        body = parse(HELLO | fields, ChatBody)
        assert key_of(body, tenant_id=TENANT, digest="d") is not None
        assert key_of(body, tenant_id=TENANT, digest="d", wish=CacheWish(mode="off")) is None

    def test_an_embedding_always(self):
        assert key_of(parse({"model": "m", "input": "a"}, EmbeddingBody), tenant_id=TENANT, digest="d") is not None


class TestWish:
    def test_is_taken_out_of_the_body(self):
        wish, rest = take({"model": "m", "cache": {"mode": "refresh", "ttl": 60}})
        assert (wish, rest) == (CacheWish(mode="refresh", ttl=60), {"model": "m"})

    @pytest.mark.parametrize("absent", [{}, {"cache": None}])
    def test_nothing_means_auto(self, absent: dict[str, Any]):
        assert take(absent)[0] == CacheWish(mode="auto", ttl=None)

    @pytest.mark.parametrize(
        ("given", "param", "code"),
        [
            ({"ttl": 0}, "cache.ttl", "invalid_value"),
            ({"ttl": -1}, "cache.ttl", "invalid_value"),
            ({"ttl": 1.5}, "cache.ttl", "invalid_value"),
            ({"ttl": "60"}, "cache.ttl", "invalid_value"),
            ({"ttl": True}, "cache.ttl", "invalid_value"),
            ({"ttl": 10**9}, "cache.ttl", "invalid_value"),
            ({"mode": "off", "ttl": 5}, "cache.ttl", "invalid_value"),
            ({"mode": "always"}, "cache.mode", "invalid_value"),
            ({"mode": "on", "key": "x"}, "cache.key", "unknown_parameter"),
            ("on", "cache", "invalid_value"),
            (True, "cache", "invalid_value"),
        ],
        ids=str,
    )
    def test_a_bad_one_is_named(self, given: Any, param: str, code: str):
        with pytest.raises(BadRequest) as refused:
            take({"cache": given})
        assert (refused.value.param, refused.value.code) == (param, code)
