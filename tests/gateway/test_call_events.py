"""Events on their way through a gateway: cut anywhere, renamed, counted, with and without usage."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.calls.events import Events, error_of, only_opens, usage_of

DIGEST, NAME = "ab" * 32, 'team/"model"'
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def event(*, spaced: bool = False, **fields: Any) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    return b"data: " + json.dumps({"model": DIGEST, **fields}, separators=separators).encode() + b"\n\n"


def token(text: str, **how: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}}], usage=None, **how)


def events(*, include_usage: bool = False, keep: bool = False) -> Events:
    return Events(served_as=DIGEST, name=NAME, include_usage=include_usage, keep=keep)


def payloads(data: bytes) -> list[Any]:
    return [json.loads(part[6:]) for part in data.split(b"\n\n") if part.startswith(b"data: {")]


WHOLE = [token("Hel"), token(f'"{DIGEST}" \n\n data: {{"error"'), event(choices=[], usage=USAGE), b"data: [DONE]\n\n"]


class TestEvents:
    @given(st.lists(st.integers(1, 200), min_size=1))
    def test_are_the_same_however_they_are_cut(self, cuts: list[int]) -> None:
        passing, data, out, at = events(), b"".join(WHOLE), b"", 0
        for step in cuts * (len(data) // sum(cuts) + 1):
            out += passing.feed(data[at : at + step])
            at += step
        told = payloads(out)
        assert [each["choices"][0]["delta"]["content"] for each in told] == [
            "Hel",
            f'"{DIGEST}" \n\n data: {{"error"',
        ]
        assert {each["model"] for each in told} == {NAME}
        assert all("usage" not in each for each in told)
        assert (passing.done, passing.usage, passing.error) == (True, USAGE, None)
        assert out.endswith(b"data: [DONE]\n\n")

    @pytest.mark.parametrize("spaced", [False, True])
    def test_the_usage_chunk_is_for_those_who_asked(self, spaced: bool) -> None:
        last = event(choices=[], usage=USAGE, spaced=spaced)
        wanted, unwanted = events(include_usage=True), events()
        assert payloads(wanted.feed(last))[0]["usage"] == USAGE
        assert unwanted.feed(last) == b""
        assert wanted.usage == unwanted.usage == USAGE

    def test_usage_beside_text_is_read_and_the_text_passed_on(self) -> None:
        passing = events()
        last = event(choices=[{"index": 0, "text": "x"}], usage=USAGE)
        assert payloads(passing.feed(last))[0]["choices"][0]["text"] == "x"
        assert passing.usage == USAGE

    def test_an_error_is_noted(self) -> None:
        passing = events()
        passing.feed(b'data: {"error": {"message": "out of memory", "code": "oom"}}\n\n')
        assert passing.error == {"message": "out of memory", "code": "oom"}

    def test_line_ends_of_other_servers_are_understood(self) -> None:
        passing = events()
        assert len(payloads(passing.feed(token("a").replace(b"\n", b"\r\n")))) == 1

    def test_what_is_kept_is_what_the_engine_said(self) -> None:
        passing = events(keep=True)
        for each in WHOLE:
            passing.feed(each)
        assert passing.raw == WHOLE


class TestOpening:
    def test_a_role_alone_is_no_token(self) -> None:
        role = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
        assert only_opens(b"")
        assert only_opens(role + role)
        assert not only_opens(role + token("x"))
        assert not only_opens(event(choices=[{"index": 0, "delta": {"role": "assistant", "content": "x"}}]))


class TestUsage:
    def test_is_found_at_the_end_of_a_body(self) -> None:
        body = json.dumps({"choices": [{"text": '"usage":{"prompt_tokens":99}'}], "usage": USAGE, "after": 1})
        assert usage_of(body.encode()) == USAGE

    @pytest.mark.parametrize("body", [b"{}", b'{"usage":{', b'{"usage":null}'])
    def test_may_be_missing(self, body: bytes) -> None:
        assert usage_of(body) is None

    def test_errors_of_any_shape_are_survived(self) -> None:
        assert error_of(b"<html>") == error_of(b"[]") == error_of(b'{"error":"text"}') == {}
