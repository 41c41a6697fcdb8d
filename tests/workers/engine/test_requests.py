"""Bodies: what is refused, and by which name."""

import json
from typing import Any

import pytest

from workers.engine.errors import InvalidRequest, UnknownParameter, UnsupportedParameter
from workers.engine.requests import INERT, UNSUPPORTED, ChatBody, CompletionBody, parse_generation


def completion(**fields: Any) -> CompletionBody:
    return parse_generation(json.dumps({"model": "m", "prompt": "p"} | fields).encode(), CompletionBody)


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
            ("prompt", [1, "two"]),
            ("prompt", [-1]),
            ("prompt", {}),
        ],
    )
    def test_a_value_out_of_range_is_refused_by_name(self, field, value):
        with pytest.raises(InvalidRequest) as refused:
            completion(**{field: value})
        assert refused.value.param == field

    def test_more_than_four_stop_strings_and_empty_ones_are_refused(self):
        for stop in (["a"] * 5, [""], ""):
            with pytest.raises(InvalidRequest) as refused:
                completion(stop=stop)
            assert refused.value.param == "stop"

    def test_an_unknown_field_is_refused_by_name(self):
        with pytest.raises(UnknownParameter) as refused:
            completion(tempreature=1)
        assert refused.value.body()["error"] == {
            "message": "Unknown parameter: `tempreature`.",
            "type": "invalid_request_error",
            "param": "tempreature",
            "code": "unknown_parameter",
        }

    def test_a_bad_message_is_named_by_its_place(self):
        body = {"model": "m", "messages": [{"role": "user", "content": "a"}, {"role": "wizard", "content": "b"}]}
        with pytest.raises(InvalidRequest) as refused:
            parse_generation(json.dumps(body).encode(), ChatBody)
        assert refused.value.param == "messages.1.role"

    @pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
    def test_what_is_not_a_json_object_is_refused(self, raw):
        with pytest.raises(InvalidRequest):
            parse_generation(raw, CompletionBody)

    def test_the_refusal_does_not_repeat_the_value(self):
        with pytest.raises(InvalidRequest) as refused:
            completion(prompt={"secret": "words"})
        assert "words" not in str(refused.value)


class TestHarmlessFields:
    def test_null_is_the_same_as_nothing(self):
        assert completion(temperature=None, stop=None, logprobs=None) == completion()

    def test_bookkeeping_fields_are_accepted(self):
        assert completion(**dict.fromkeys(INERT, "x")) == completion()

    @pytest.mark.parametrize("name", sorted(UNSUPPORTED))
    def test_what_cannot_be_honoured_is_refused_unless_it_asks_for_nothing(self, name):
        for neutral in UNSUPPORTED[name]:
            assert completion(**{name: neutral}) == completion()
        with pytest.raises(UnsupportedParameter) as refused:
            completion(**{name: "something"})
        assert refused.value.param == name
