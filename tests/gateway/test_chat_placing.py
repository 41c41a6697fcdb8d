"""Where chats are placed: at another engine when one dies or is full, at the first one that comes up, or nowhere."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic

import openai
import pytest
from openai.types.chat import ChatCompletion
from sqlalchemy import select

from services.placement import service as placement
from shared.contracts.jobs import JobError
from shared.db.models import Demand, Model
from tests.gateway.conftest import Gateway, running_gateway
from tests.gateway.placed import Placed, placed
from tests.support import wait_until
from tests.support.stores import RunningStores

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def hurried(stores: RunningStores, migrated: str) -> Iterator[Gateway]:
    """A gateway that waits for an engine no longer than a second."""
    with running_gateway(stores, migrated, place_wait_s=1.0) as running:
        yield running


def ask(model: Placed, words: str) -> str | None:
    """What the model says to these words."""
    answer: ChatCompletion = model.openai().chat.completions.create(**model.chat(words))
    return answer.choices[0].message.content


def gateway_wants(gateway: Gateway, name: str) -> bool:
    """Whether somebody waits for an engine of a model."""
    query = select(Demand).join(Model, Model.id == Demand.model_id).where(Model.name == name)
    with gateway.database.transaction() as session:
        return session.scalar(query) is not None


class TestDeaths:
    @pytest.fixture
    def fragile(self, gateway: Gateway) -> Iterator[Placed]:
        """A model whose two engines are there to die."""
        with placed(gateway, engines=2) as world:
            yield world

    def test_before_the_first_token_another_engine_answers(self, fragile: Placed) -> None:
        for engine in fragile.engines:
            engine.script(word_s=0.3)
        fragile.engines[0].kill()
        client = fragile.openai()
        for _ in range(4):
            answer = client.chat.completions.create(**fragile.chat("one two"))
            assert answer.choices[0].message.content == "one two"
        jobs = fragile.jobs()
        assert len(jobs) == 4
        assert {fragile.job(job["id"])["state"] for job in jobs} == {"succeeded"}

    def test_after_it_the_stream_ends_with_an_error(self, fragile: Placed) -> None:
        for engine in fragile.engines:
            engine.script(die_after=3, word_s=0.02)
        client = fragile.openai()
        chunks = client.chat.completions.create(**fragile.chat("a b c d e f"), stream=True)
        said = [next(chunks).choices[0].delta.content for _ in range(3)]
        assert said == ["a", " b", " c"]
        with pytest.raises(openai.APIError) as caught:
            next(chunks)
        assert caught.value.code == "engine_lost"
        job = fragile.job(fragile.jobs()[0]["id"])
        assert (job["state"], job["error"]["code"], job["usage"]["completion_tokens"]) == ("failed", "engine_lost", 3)

    def test_a_whole_answer_is_asked_for_again(self, fragile: Placed) -> None:
        fragile.engines[0].script(die_after=2)
        answers = [fragile.openai().chat.completions.create(**fragile.chat("a b c d")) for _ in range(6)]
        assert {answer.choices[0].message.content for answer in answers} == {"a b c d"}
        assert fragile.engines[1].running() == 0

    def test_engines_that_are_gone_cost_a_call_nothing_but_time(self, fragile: Placed) -> None:
        for engine in fragile.engines:
            engine.kill()
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(ask, fragile, "a b")
            with pytest.raises(TimeoutError):
                waiting.result(2)
            fragile.start()
            assert waiting.result(20) == "a b"

    def test_a_full_engine_hands_over_to_another(self, fragile: Placed) -> None:
        fragile.engines[0].script(status=429)
        for _ in range(4):
            fragile.openai().chat.completions.create(**fragile.chat("a"))
        assert {fragile.job(job["id"])["state"] for job in fragile.jobs()} == {"succeeded"}


class TestNoEngine:
    def test_is_a_503_in_bounded_time(self, hurried: Gateway) -> None:
        with placed(hurried, engines=0) as model, model.http() as http:
            began = monotonic()
            answer = http.post(CHAT, json=model.chat())
            assert monotonic() - began < 5
        assert (answer.status_code, answer.json()["code"]) == (503, "engine_not_ready")
        assert answer.headers["retry-after-ms"]
        assert answer.json()["detail"].startswith(f"No engine of {model.name} became ready in time: the job needs")

    def test_an_engine_that_comes_up_answers_who_waits(self, gateway: Gateway) -> None:
        with placed(gateway, engines=0) as model, ThreadPoolExecutor() as threads:
            waiting = [threads.submit(ask, model, "a b") for _ in range(4)]
            wait_until(lambda: model.demand() is not None, what="the demand is told")
            model.start()
            assert {each.result(20) for each in waiting} == {"a b"}

    def test_why_a_worker_cannot_is_told_at_once(self, gateway: Gateway) -> None:
        with placed(gateway, engines=0) as model, ThreadPoolExecutor() as threads, model.http() as http:
            waiting = threads.submit(http.post, CHAT, json=model.chat())
            demand = wait_until(model.demand, what="the demand is told")
            error = JobError(code="engine_load_failed", title="The model did not load", detail="no tokenizer")
            with gateway.database.transaction() as session:
                placement.refuse(session, demand, error=error)
            answer = waiting.result(10)
        assert (answer.status_code, answer.json()["code"]) == (503, "engine_load_failed")
        assert answer.json()["detail"] == "The model did not load: no tokenizer"
        assert answer.headers["x-should-retry"] == "false"

    def test_full_engines_are_a_429_in_bounded_time(self, hurried: Gateway) -> None:
        with placed(hurried) as model, model.http() as http:
            model.engines[0].script(status=429)
            answer = http.post(CHAT, json=model.chat())
            assert (answer.status_code, answer.json()["code"]) == (429, "engine_busy")
            assert model.job(model.jobs()[0]["id"])["error"]["code"] == "engine_busy"


class TestAdapter:
    def test_is_asked_for_by_its_own_name_where_it_is_loaded(self, gateway: Gateway) -> None:
        with placed(gateway, engines=0) as model, ThreadPoolExecutor() as threads:
            name = f"adapter-of-{model.name}"
            adapter = model.adapter(name)
            model.start()  # has the base alone
            loaded = model.start(adapter)
            waiting = threads.submit(ask, replace(model, name=name), "a b")
            wait_until(lambda: gateway_wants(gateway, name), what="the adapter is wanted")
            model.load(loaded, adapter)
            assert waiting.result(20) == "a b"
            (job, *_) = model.jobs()
            assert model.job(job["id"])["plan"]["engine_id"] == str(loaded.id)
