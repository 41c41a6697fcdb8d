"""Calls and the response cache, through a gateway: who is answered from where, and what a sick cache costs."""

import json
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from time import monotonic
from typing import Any

import httpx
import pytest

from shared.ids import new_id
from tests.gateway.conftest import Gateway
from tests.gateway.placed import Placed, placed
from tests.gateway.served import refused
from tests.support import wait_until
from tests.support.stores import RunningStores

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model(gateway: Gateway) -> Iterator[Placed]:
    with placed(gateway) as world:
        yield world


@pytest.fixture
def client(model: Placed) -> Iterator[httpx.Client]:
    with model.http() as opened:
        yield opened


@contextmanager
def slow(model: Placed, word_s: float) -> Iterator[None]:
    """The engine takes its time for each word."""
    model.engines[0].script(word_s=word_s)
    try:
        yield
    finally:
        model.engines[0].script(word_s=0)


def ask(model: Placed, client: httpx.Client, words: str, **extra: Any) -> httpx.Response:
    answer = client.post(CHAT, json=model.chat(words, **{"temperature": 0, **extra}))
    assert answer.status_code == 200, answer.text
    return answer


def said(answer: httpx.Response) -> str:
    """The text of an answer, streamed or whole."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return str(answer.json()["choices"][0]["message"]["content"])
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def fresh() -> str:
    """A prompt that nobody has sent before."""
    return f"words {new_id()}"


class TestWish:
    def test_refresh_asks_again_and_off_does_not_look(self, model: Placed, client: httpx.Client) -> None:
        words, wishes = fresh(), [None, None, {"mode": "refresh"}, None, {"mode": "off"}]
        verdicts = [ask(model, client, words, cache=wish).headers["x-cache"] for wish in wishes]
        assert verdicts == ["miss", "hit", "miss", "hit", "bypass"]

    def test_on_keeps_a_sampled_answer(self, model: Placed, client: httpx.Client) -> None:
        words = fresh()
        wishes = [None, {"mode": "on", "ttl": 60}, {"mode": "on"}]
        verdicts = [ask(model, client, words, temperature=1, cache=wish).headers["x-cache"] for wish in wishes]
        assert verdicts == ["bypass", "miss", "hit"]

    @pytest.mark.parametrize(("wish", "param"), [({"ttl": 0}, "cache.ttl"), ({"mode": "maybe"}, "cache.mode")])
    def test_a_bad_one_is_named(self, model: Placed, client: httpx.Client, wish: Any, param: str) -> None:
        refused(client.post(CHAT, json=model.chat(cache=wish)), 400, "invalid_value", param=param)


class TestTogether:
    def test_equal_calls_ask_the_engine_once_streamed_or_not(self, model: Placed, client: httpx.Client) -> None:
        words = fresh()
        with slow(model, 0.3), ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(ask, model, client, words, stream=number % 2 == 0) for number in range(8)]
            answers = [call.result() for call in calls]
        assert Counter(answer.headers["x-cache"] for answer in answers) == {"miss": 1, "coalesced": 7}
        assert {said(answer) for answer in answers} == {words}
        assert len([answer for answer in answers if "x-job-id" in answer.headers]) == 1

    def test_when_the_first_one_hangs_up_another_one_asks(self, model: Placed, client: httpx.Client) -> None:
        words = fresh()
        engine = model.engines[0]
        with slow(model, 1.0), ThreadPoolExecutor(1) as threads:
            with client.stream("POST", CHAT, json=model.chat(words, temperature=0, stream=True)) as first:
                assert first.headers["x-cache"] == "miss"
                second = threads.submit(ask, model, client, words)
                wait_until(lambda: engine.running() == 1, what="the first one is under way")
            answer = second.result()
        assert answer.headers["x-cache"] == "miss"
        assert said(answer) == words


@pytest.mark.faults
class TestSickCache:
    def calls(self, model: Placed, client: httpx.Client) -> list[float]:
        """Seconds of each of a row of calls; all are answered."""
        words, took = fresh(), []
        for _ in range(20):
            began = monotonic()
            answer = ask(model, client, words)
            took.append(monotonic() - began)
            assert answer.headers["x-cache"] in {"miss", "hit"}
        return took

    def test_a_killed_one_costs_misses_and_no_error(
        self, model: Placed, client: httpx.Client, stores: RunningStores
    ) -> None:
        self.calls(model, client)
        stores.kill("cache")
        try:
            assert median(self.calls(model, client)) < 0.25
        finally:
            stores.restart("cache")
        self.used_again(model, client)

    def test_neither_does_a_frozen_one(self, model: Placed, client: httpx.Client, stores: RunningStores) -> None:
        self.calls(model, client)
        stores.children["cache"].send(signal.SIGSTOP)
        try:
            took = self.calls(model, client)
        finally:
            stores.children["cache"].send(signal.SIGCONT)
        assert median(took) < 0.25
        self.used_again(model, client)

    def test_one_that_dies_during_a_stream_leaves_the_stream_whole(
        self, model: Placed, client: httpx.Client, stores: RunningStores
    ) -> None:
        words = fresh()
        with slow(model, 0.3):
            with client.stream("POST", CHAT, json=model.chat(words, temperature=0, stream=True)) as answer:
                stores.kill("cache")
                text = answer.read().decode()
            stores.restart("cache")
        assert text.endswith("data: [DONE]\n\n")
        self.used_again(model, client)

    def used_again(self, model: Placed, client: httpx.Client) -> None:
        words = fresh()
        wait_until(lambda: ask(model, client, words).headers["x-cache"] == "hit", what="the cache is used again")
