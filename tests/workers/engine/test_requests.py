"""Bodies, for engines and the gateway alike: what is refused, and by which name."""

import json
from typing import Any

import pytest

from shared.contracts.openai import (
    INERT,
    UNSUPPORTED,
    BadRequest,
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    parse,
    read,
)
from tests.workers.engine.conftest import ROOT
from workers.engine.errors import InvalidRequest, UnknownParameter, UnsupportedParameter, refused

TOO_LARGE = {"name": "s", "schema": {"a": "x" * 70_000}}
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def completion(**fields: Any) -> CompletionBody:
    return parse(read(json.dumps({"model": "m", "prompt": "p"} | fields).encode()), CompletionBody)


def chat(**fields: Any) -> ChatBody:
    return parse(read(json.dumps({"model": "m", "messages": HELLO} | fields).encode()), ChatBody)


class TestBadFields:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("max_tokens", 0),
            ("max_tokens", -1),
            ("max_tokens", 1.5),
            ("max_tokens", "16"),
            ("max_tokens", True),
            ("temperature", float("nan")),
            ("temperature", float("inf")),
            ("temperature", -0.1),
            ("temperature", 2.1),
            ("top_p", float("nan")),
            ("top_p", 1.1),
            ("top_k", -2),
            ("top_k", 2**31),
            ("seed", 2**63),
            ("stop", 5),
            ("stream", "yes"),
            ("n", 0),
            ("n", 129),
            ("min_p", 1.5),
            ("presence_penalty", 2.1),
            ("frequency_penalty", float("nan")),
            ("repetition_penalty", 0),
            ("logit_bias", {"x": 1}),
            ("logit_bias", [1]),
            ("stop_token_ids", [1] * 17),
            ("stop", ["."] * 100_000),
            ("logprobs", 21),
            ("prompt", [1, "two"]),
            ("prompt", [-1]),
            ("prompt", {}),
        ],
    )
    def test_a_value_out_of_range_is_refused_by_name(self, field, value):
        with pytest.raises(BadRequest) as told:
            completion(**{field: value})
        assert told.value.param == field

    @pytest.mark.parametrize(
        ("stop", "why"),
        [
            (["a"] * 17, "at most 16 items"),
            ([""], "at least 1 character"),
            ("", "at least 1 character"),
            (["a" * 257], "at most 256 characters"),
            (5, "none of the types"),
        ],
    )
    def test_of_a_field_with_several_forms_the_complaint_that_helps_is_told(self, stop, why):
        with pytest.raises(BadRequest, match=why) as told:
            completion(stop=stop)
        assert told.value.param == "stop"

    def test_an_unknown_field_is_refused_by_name(self):
        with pytest.raises(BadRequest) as told:
            completion(tempreature=1)
        assert refused(told.value).body()["error"] == {
            "message": "Unknown parameter: `tempreature`.",
            "type": "invalid_request_error",
            "param": "tempreature",
            "code": "unknown_parameter",
        }

    @pytest.mark.parametrize(
        ("message", "param"),
        [
            ({"role": "wizard", "content": "b"}, "messages.1.role"),
            ({"role": "user"}, "messages.1.content"),
            ({"role": "user", "content": 5}, "messages.1.content"),
            ({"role": "tool", "content": "5"}, "messages.1.tool_call_id"),
            ({"role": "user", "content": [{"type": "text"}]}, "messages.1.content.0.text"),
            (
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
                "messages.1.content.0.type",
            ),
        ],
    )
    def test_a_bad_message_is_named_by_its_place(self, message, param):
        with pytest.raises(BadRequest) as told:
            chat(messages=[*HELLO, message])
        assert told.value.param == param

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"top_logprobs": 3}, "top_logprobs"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
            ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
            (
                {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "s", "schema": {"a": "x" * 70_000}},
                    }
                },
                "response_format.json_schema.schema",
            ),
        ],
    )
    def test_of_fields_that_do_not_agree_one_is_named(self, fields, param):
        with pytest.raises(BadRequest) as told:
            chat(**fields)
        assert told.value.param == param

    def test_an_embedding_of_nothing_is_refused_by_name(self):
        with pytest.raises(BadRequest) as told:
            parse({"model": "m", "input": []}, EmbeddingBody)
        assert told.value.param == "input"

    @pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
    def test_what_is_not_a_json_object_is_refused(self, raw):
        with pytest.raises(BadRequest):
            read(raw)

    def test_the_refusal_does_not_repeat_the_value(self):
        with pytest.raises(BadRequest) as told:
            completion(prompt={"secret": "words"})
        assert "words" not in str(told.value)


class TestHarmlessFields:
    def test_null_is_the_same_as_nothing(self):
        assert completion(temperature=None, stop=None, logprobs=None) == completion()

    def test_bookkeeping_fields_are_accepted(self):
        assert completion(**dict.fromkeys(INERT, "x")) == completion()

    @pytest.mark.parametrize("name", sorted(UNSUPPORTED))
    def test_what_cannot_be_honoured_is_refused_unless_it_asks_for_nothing(self, name):
        for neutral in UNSUPPORTED[name]:
            assert completion(**{name: neutral}) == completion()
        with pytest.raises(BadRequest) as told:
            completion(**{name: "something"})
        assert told.value.param == name
        assert told.value.code == "unsupported_parameter"


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("unknown_parameter", UnknownParameter),
            ("unsupported_parameter", UnsupportedParameter),
            ("invalid_json", InvalidRequest),
            ("invalid_value", InvalidRequest),
        ],
    )
    def test_the_engine_answers_with_the_code_of_the_complaint(self, code, kind):
        error = refused(BadRequest("No.", code=code, param="p"))
        assert isinstance(error, kind)
        assert (error.status, error.code, error.param, str(error)) == (400, code, "p", "No.")


class TestDocumented:
    def test_every_parameter_has_its_place_in_the_page(self):
        page = (ROOT / "infra" / "docs" / "parameters.md").read_text()
        fields = {name for kind in (ChatBody, CompletionBody, EmbeddingBody) for name in kind.model_fields}
        assert {name for name in fields | INERT | set(UNSUPPORTED) if f"`{name}`" not in page} == set()
