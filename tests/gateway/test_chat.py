"""Chats through a gateway to engines that do as they are told: answers, streams, deaths, hang-ups, rows."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.gateway.conftest import Gateway
from tests.gateway.placed import Placed, placed
from tests.support import wait_until

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model(gateway: Gateway) -> Iterator[Placed]:
    """A model with one engine."""
    with placed(gateway) as world:
        yield world


@pytest.fixture
def client(model: Placed) -> OpenAI:
    return model.openai()


def events(answer: httpx.Response) -> list[str]:
    """The payloads of a stream."""
    return [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]


class TestWhole:
    def test_is_the_engines_answer_under_the_callers_name(self, model: Placed, client: OpenAI) -> None:
        answer = client.chat.completions.create(**model.chat("one two three"))
        assert answer.model == model.name
        assert answer.choices[0].message.content == "one two three"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)

    def test_writes_a_row_without_texts(self, model: Placed) -> None:
        with model.http() as http:
            answer = http.post(CHAT, json=model.chat("a secret", temperature=0.5, user="someone"))
        assert answer.headers["x-cache"] == "bypass"
        job = model.job(answer.headers["x-job-id"])
        assert (job["kind"], job["state"], job["tier"], job["attempt"]) == ("call", "succeeded", "interactive", 1)
        assert job["spec"] == {
            "model": model.name,
            "model_id": str(model.model),
            "endpoint": CHAT,
            "stream": False,
            "parameters": {"temperature": 0.5},
        }
        assert (job["usage"]["prompt_tokens"], job["usage"]["completion_tokens"]) == (2, 2)
        assert job["usage"]["gpu_seconds"] > 0
        assert "secret" not in json.dumps(job)


class TestStream:
    def test_comes_in_pieces_under_the_callers_name(self, model: Placed, client: OpenAI) -> None:
        chunks = list(client.chat.completions.create(**model.chat("one two three"), stream=True))
        assert {chunk.model for chunk in chunks} == {model.name}
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
        assert all(chunk.usage is None for chunk in chunks)

    def test_usage_comes_when_asked_for_and_is_counted_always(self, model: Placed) -> None:
        for asked in (True, False):
            body = model.chat("one two", stream=True, **({"stream_options": {"include_usage": True}} if asked else {}))
            with model.http() as http:
                answer = http.post(CHAT, json=body)
            told = events(answer)
            assert told[-1] == "[DONE]"
            assert [json.loads(each)["choices"] == [] for each in told[:-1]].count(True) == int(asked)
            job = model.job(answer.headers["x-job-id"])
            assert (job["usage"]["prompt_tokens"], job["usage"]["completion_tokens"]) == (2, 2)

    def test_says_what_proxies_need_and_no_more(self, model: Placed) -> None:
        with model.http() as http:
            answer = http.post(CHAT, json=model.chat(stream=True))
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["x-request-id"]
        assert not [line for line in answer.text.splitlines() if line.startswith(("id:", "retry:"))]


IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"n": 0}, "invalid_value", "n"),
    ({"stop": ["x"] * 100_000}, "invalid_value", "stop"),
    ({"temperature": 3}, "invalid_value", "temperature"),
    ({"messages": []}, "invalid_value", "messages"),
    ({"messages": [IMAGE]}, "invalid_value", "messages.0.content.0.type"),
    ({"bogus": 1}, "unknown_parameter", "bogus"),
    ({"audio": {"voice": "x"}}, "unsupported_parameter", "audio"),
    ({"cache": {"mode": "maybe"}}, "invalid_value", "cache.mode"),
]


class TestRefusals:
    @pytest.mark.parametrize(("change", "code", "param"), BAD)
    def test_a_bad_parameter_is_named(self, model: Placed, change: dict[str, Any], code: str, param: str) -> None:
        with model.http() as http:
            answer = http.post(CHAT, json=model.chat() | change)
        told = answer.json()["error"]
        assert (answer.status_code, told["code"], told["param"]) == (400, code, param)

    def test_nan_is_a_400_with_its_field(self, model: Placed) -> None:
        body = json.dumps(model.chat(temperature=float("nan")))
        with model.http() as http:
            answer = http.post(CHAT, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "temperature")

    def test_an_unknown_model_is_a_404_in_openais_form(self, client: OpenAI, model: Placed) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(**{**model.chat(), "model": "nobody"})
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")

    def test_what_the_engine_refuses_is_passed_on_in_the_callers_words(self, model: Placed) -> None:
        engine = model.engines[0]
        engine.script(status=400)
        try:
            with model.http() as http:
                answer = http.post(CHAT, json=model.chat())
        finally:
            engine.script(status=200)
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "as told")
        assert answer.headers["content-type"] == "application/json"
        (job, *_) = model.jobs()
        assert model.job(job["id"])["state"] == "failed"

    def test_a_key_needs_the_scope(self, model: Placed) -> None:
        with model.http("models:read") as http:
            assert http.post(CHAT, json=model.chat()).json()["code"] == "missing_scope"

    def test_a_body_must_be_json(self, model: Placed) -> None:
        with model.http() as http:
            assert http.post(CHAT, content=b"{}").status_code == 415
            answer = http.post(CHAT, content=b"{", headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")

    def test_calls_are_not_submitted_as_jobs(self, model: Placed) -> None:
        with model.http() as http:
            answer = http.post("/v1/jobs", json={"kind": "call", "spec": {}})
        assert (answer.status_code, answer.json()["param"]) == (400, "kind")


class TestHangUp:
    def test_stops_the_engine_and_cancels_the_row(self, model: Placed) -> None:
        engine = model.engines[0]
        engine.script(word_s=0.05)
        try:
            with model.http() as http, http.stream("POST", CHAT, json=model.chat("w " * 400, stream=True)) as answer:
                next(answer.iter_bytes())
                job_id = answer.headers["x-job-id"]
                assert engine.running() == 1
            wait_until(lambda: engine.running() == 0, timeout=5, what="the engine lets go")
        finally:
            engine.script(word_s=0.0)
        job = model.job(job_id)
        assert (job["state"], job["error"]["code"]) == ("cancelled", "client_gone")
        assert 0 < job["usage"]["completion_tokens"] < 400

    def test_before_the_first_token_too(self, model: Placed) -> None:
        engine = model.engines[0]
        engine.script(word_s=30.0)
        try:
            with model.http() as http, pytest.raises(httpx.ReadTimeout):
                http.post(CHAT, json=model.chat("w"), timeout=0.5)
        finally:
            engine.script(word_s=0.0)
        (job, *_) = model.jobs()
        assert model.job(job["id"])["state"] == "cancelled"


class TestCancel:
    def test_through_the_job_ends_the_stream_with_an_error(self, model: Placed) -> None:
        engine = model.engines[0]
        engine.script(word_s=0.05)
        try:
            with model.http() as http, http.stream("POST", CHAT, json=model.chat("w " * 400, stream=True)) as answer:
                told = answer.iter_lines()
                next(told)
                with model.http() as other:
                    other.post(f"/v1/jobs/{answer.headers['x-job-id']}/cancel").raise_for_status()
                last = [line for line in told if line][-1]
        finally:
            engine.script(word_s=0.0)
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "call_cancelled"
        assert model.job(answer.headers["x-job-id"])["state"] == "cancelled"
