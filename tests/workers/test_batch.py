"""The `batch` kind's lines, with the real engine and yard-tiny, and with an engine whose answers are known."""

import json
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest

from services.catalog import service as catalog
from services.inference import repository as inference_sql
from services.inference import service as inference
from services.jobs import repository
from shared.contracts.batches import BatchSpec
from shared.contracts.jobs import State
from shared.db.models import JobItem
from shared.storage import Store
from tests.services.jobs import build
from tests.support import wait_until
from tests.support.scripted_engine import COMMAND
from tests.workers.conftest import World
from tests.workers.test_inference import TINY
from workers.runner import Runner

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
SCRIPTED: dict[str, Any] = {
    "engine": "scripted",
    "engine_commands": {"scripted": [*COMMAND, "--token", "{token}", "--metrics"]},
}


@pytest.fixture(autouse=True)
def model(world: World) -> None:
    catalog.register_folder(world.database, Store.of(world.settings), world.tenant, name="yard-tiny", folder=TINY)


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """A body; without the cache, so that an engine is asked."""
    asked = {"model": "yard-tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0}
    return asked | {"cache": {"mode": "off"}} | fields


def completion(prompt: str, **fields: Any) -> dict[str, Any]:
    asked = {"model": "yard-tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0}
    return asked | {"cache": {"mode": "off"}} | fields


def submit(world: World, bodies: list[dict[str, Any]], *, endpoint: str = COMPLETIONS, **fields: Any) -> UUID:
    """A child of a batch, as the courier writes it."""
    spec = BatchSpec.model_validate({"input_file_id": "file-1", "endpoint": endpoint})
    with world.database.transaction() as session:
        found = inference.model_facts(session, world.tenant, "yard-tiny")
        job = build.job(
            session,
            world.tenant,
            kind="batch",
            tier=2,
            spec=spec.model_dump(mode="json"),
            lines=tuple(bodies),
            progress_total=len(bodies),
            **fields,
        )
        of_model: dict[str, Any] = {"model_id": found.id, "model_digest": found.served_as, "input_file_id": None}
        inference_sql.insert(session, job.id, tenant_id=world.tenant, **of_model)
        return job.id


def lines(world: World, job_id: UUID) -> list[JobItem]:
    with world.database.transaction() as session:
        return repository.lines(session, world.tenant, job_id)


def outputs(world: World, job_id: UUID) -> list[dict[str, Any]]:
    found = lines(world, job_id)
    assert [line.error for line in found if line.error] == []
    return [line.output for line in found if line.output is not None]


def done(world: World, job_id: UUID) -> int:
    return sum(line.status != "pending" for line in lines(world, job_id))


def engine(runner: Runner) -> httpx.Client:
    """To the one engine's own socket."""

    def find() -> str | None:
        running = [each.process for each in runner.host.engines if each.process is not None]
        return str(running[0].config.uds) if running else None

    uds = wait_until(find, timeout=40, what="an engine")
    return httpx.Client(transport=httpx.HTTPTransport(uds=uds, verify=False), base_url="http://engine", timeout=30)


def asked(runner: Runner) -> list[dict[str, Any]]:
    """What the scripted engine was asked so far."""
    with engine(runner) as client:
        found: list[dict[str, Any]] = client.get("/asked").json()["data"]
        return found


def script(runner: Runner, **ways: Any) -> None:
    """Change the scripted engine's ways."""
    with engine(runner) as client:
        client.post("/script", content=json.dumps(ways)).raise_for_status()


class TestEndpoints:
    def test_each_answers_as_a_call_would_but_for_what_differs_from_run_to_run(self, world: World):
        chats = submit(world, [chat("Hello"), chat("Hello", n=2, temperature=1.0, logprobs=True)], endpoint=CHAT)
        texts = submit(world, [completion("def f("), completion("def f(", stop=["name"], max_tokens=64)])
        vectors = submit(world, [{"model": "yard-tiny", "input": ["one", "two words"]}], endpoint=EMBEDDINGS)
        runner = world.runner()
        for job in (chats, texts, vectors):
            world.wait_for(job, State.SUCCEEDED, timeout=60)

        first, second = outputs(world, chats)
        assert set(first["body"]) == {"object", "model", "choices", "usage"}
        assert first["body"]["object"] == "chat.completion"
        assert first["body"]["model"] == "yard-tiny"
        assert set(first["body"]["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
        assert first["usage"]["completion_tokens"] == 8
        assert [choice["index"] for choice in second["body"]["choices"]] == [0, 1]
        assert second["body"]["choices"][0]["logprobs"]["content"]

        plain, stopped = outputs(world, texts)
        assert plain["body"]["choices"][0]["finish_reason"] == "length"
        assert stopped["body"]["choices"][0]["finish_reason"] == "stop"
        with engine(runner) as client:
            (loaded,) = runner.host.engines
            assert loaded.process is not None
            token = {"authorization": f"Bearer {loaded.process.config.token}"}
            body = {"model": loaded.model.digest, "prompt": "def f(", "stop": ["name"], "max_tokens": 64}
            raw = client.post(COMPLETIONS, json=body | {"temperature": 0}, headers=token).raise_for_status().json()
        assert stopped["body"]["choices"] == raw["choices"]
        assert stopped["body"]["usage"]["completion_tokens"] == raw["usage"]["completion_tokens"] < 64

        (embedded,) = outputs(world, vectors)
        assert [row["index"] for row in embedded["body"]["data"]] == [0, 1]
        assert len(embedded["body"]["data"][0]["embedding"]) > 1
        assert embedded["body"]["model"] == "yard-tiny"
        assert embedded["usage"] == {
            "prompt_tokens": embedded["body"]["usage"]["prompt_tokens"],
            "completion_tokens": 0,
            "cached_tokens": 0,
        }

    def test_the_model_is_called_as_the_line_calls_it(self, world: World):
        with world.database.transaction() as session:
            model_id = str(catalog.get(session, world.tenant, "yard-tiny").id)
        job = submit(world, [completion("def f("), completion("def f(", model=model_id)])
        world.runner()
        world.wait_for(job, State.SUCCEEDED, timeout=60)
        first, second = outputs(world, job)
        assert (first["body"].pop("model"), second["body"].pop("model")) == ("yard-tiny", model_id)
        assert first["body"] == second["body"]


BAD: list[tuple[dict[str, Any], int, str, str | None]] = [
    (chat("x", temprature=1), 400, "unknown_parameter", "temprature"),
    (chat("x", temperature=3), 400, "invalid_value", "temperature"),
    (chat("x", audio={}), 400, "unsupported_parameter", "audio"),
    (chat("x", stream=True), 400, "unsupported_parameter", "stream"),
    (chat("x", cache={"mode": "sometimes"}), 400, "invalid_value", "cache.mode"),
    ({"model": "yard-tiny"}, 400, "invalid_value", "messages"),
    ({"messages": [{"role": "user", "content": "x"}]}, 400, "invalid_value", "model"),
    ({}, 400, "invalid_value", "model"),
    ({"unknown_model": "mine", "messages": []}, 400, "invalid_value", "model"),
    ({"unknown_model": "nobody", "body": {}}, 404, "model_not_found", "model"),
]


class TestBadBodies:
    def test_are_errors_of_their_lines_and_need_no_engine(self, world: World):
        job = submit(world, [body for body, *_ in BAD], endpoint=CHAT)
        runner = world.runner()
        ended = world.wait_for(job, State.SUCCEEDED, timeout=20)
        assert list(runner.host.engines) == []
        assert (ended.progress_done, ended.progress_failed) == (len(BAD), len(BAD))
        for line, (_, status, code, param) in zip(lines(world, job), BAD, strict=True):
            assert line.error is not None
            assert (line.error["status_code"], line.error["code"]) == (status, code)
            told = line.error["body"]["error"]
            assert (told["code"], told["param"], told["type"]) == (code, param, "invalid_request_error")
            assert told["message"] == line.error["message"] != ""

    def test_what_the_engine_refuses_is_an_error_of_its_line(self, world: World):
        job = submit(world, [completion("def f("), completion("x " * 5000), completion("def g(")])
        world.runner()
        ended = world.wait_for(job, State.SUCCEEDED, timeout=60)
        assert (ended.progress_done, ended.progress_failed) == (3, 1)
        good, bad, other = lines(world, job)
        assert (good.status, bad.status, other.status) == ("done", "error", "done")
        assert bad.error is not None
        assert (bad.error["status_code"], bad.error["code"]) == (400, "context_length_exceeded")
        assert bad.error["body"]["error"]["param"] == "prompt"

    def test_an_engine_that_always_fails_is_asked_three_times(self, world: World):
        warm = submit(world, [completion("warm")])
        runner = world.runner(**SCRIPTED)
        world.wait_for(warm, State.SUCCEEDED, timeout=40)
        script(runner, status=500)
        job = submit(world, [completion("one")])
        runner.wake("cpu.serve")
        ended = world.wait_for(job, State.SUCCEEDED, timeout=20)
        assert (ended.attempt, ended.progress_failed) == (1, 1)
        (line,) = lines(world, job)
        assert line.error is not None
        assert (line.error["status_code"], line.error["code"]) == (500, "engine_error")
        assert line.error["body"]["error"]["type"] == "server_error"


class TestEqualLines:
    def test_run_once_wherever_they_stand(self, world: World):
        said = ["one two", "one two", "three", "one two", "four five six", "three"]
        job = submit(world, [completion(text) for text in said])
        runner = world.runner(**SCRIPTED, engine_max_in_flight=2)
        ended = world.wait_for(job, State.SUCCEEDED, timeout=40)
        assert sorted(each["prompt"] for each in asked(runner)) == ["four five six", "one two", "three"]
        found = outputs(world, job)
        assert [each["body"]["choices"][0]["text"] for each in found] == said
        # each body says what its answer took; the account has it once
        assert [each["body"]["usage"]["completion_tokens"] for each in found] == [2, 2, 1, 2, 3, 1]
        assert (ended.prompt_tokens, ended.completion_tokens) == (6, 6)

    def test_do_not_hold_up_those_behind_them(self, world: World):
        warm = submit(world, [completion("warm")])
        runner = world.runner(**SCRIPTED, engine_max_in_flight=2)
        world.wait_for(warm, State.SUCCEEDED, timeout=40)
        script(runner, word_s=1.0)
        job = submit(world, [*([completion("a b c")] * 50), completion("d e f")])
        runner.wake("cpu.serve")
        both = [{"warm", "a b c", "d e f"}]
        wait_until(lambda: {each["prompt"] for each in asked(runner)} in both, timeout=20, what="both are asked")
        assert done(world, job) == 0, "nobody waited for the first answer"
        world.wait_for(job, State.SUCCEEDED, timeout=20)
        assert len(asked(runner)) == 3

    def test_are_found_by_the_next_batch_in_the_cache_unless_a_line_does_not_want_it(self, world: World):
        bodies = [completion(text, cache=None) for text in ("one two", "three")]
        first = submit(world, bodies)
        runner = world.runner(**SCRIPTED, engine_max_in_flight=1)  # one after the other, in order
        world.wait_for(first, State.SUCCEEDED, timeout=40)
        second = submit(world, [*bodies, completion("three", cache={"mode": "refresh"})])
        runner.wake("cpu.serve")
        ended = world.wait_for(second, State.SUCCEEDED, timeout=20)
        assert [each["prompt"] for each in asked(runner)] == ["one two", "three", "three"]
        assert [each["body"] for each in outputs(world, second)][:2] == [each["body"] for each in outputs(world, first)]
        assert ended.completion_tokens == 1


class TestSeeds:
    def test_a_sampled_line_has_one_of_its_own(self, world: World):
        bodies = [
            completion("one", temperature=0.5),
            completion("one", temperature=0.5),
            completion("two", temperature=0.5),
            completion("one", temperature=0.5, seed=7),
            completion("three"),
        ]
        job = submit(world, bodies)
        runner = world.runner(**SCRIPTED)
        world.wait_for(job, State.SUCCEEDED, timeout=40)
        found = {(each["prompt"], each.get("seed")) for each in asked(runner)}
        seeds = {seed for _, seed in found} - {None, 7}
        assert len(found) == len(asked(runner)) == 4
        assert len(seeds) == 2
        assert all(isinstance(seed, int) and 0 <= seed < 2**48 for seed in seeds)
        assert {("one", 7), ("three", None)} < found

    def test_so_its_answer_is_the_same_in_every_run(self, world: World):
        bodies = [completion(f"def f_{number}(", temperature=1.0, max_tokens=16, n=2) for number in range(4)]
        first = submit(world, bodies)
        runner = world.runner()
        world.wait_for(first, State.SUCCEEDED, timeout=60)
        second = submit(world, bodies[::-1])
        runner.wake("cpu.serve")
        world.wait_for(second, State.SUCCEEDED, timeout=20)
        texts = [each["body"]["choices"] for each in outputs(world, first)]
        assert [each["body"]["choices"] for each in outputs(world, second)][::-1] == texts
        assert len({orjson.dumps(each) for each in texts}) == 4


class TestStrangeAnswers:
    def test_what_postgresql_cannot_hold_is_replaced(self, world: World):
        warm = submit(world, [completion("warm")])
        runner = world.runner(**SCRIPTED)
        world.wait_for(warm, State.SUCCEEDED, timeout=40)
        script(runner, answer="a\x00b \ud800c")
        job = submit(world, [completion("one")])
        talk = submit(world, [chat("one")], endpoint=CHAT)
        runner.wake("cpu.serve")
        world.wait_for(job, State.SUCCEEDED, timeout=20)
        world.wait_for(talk, State.SUCCEEDED, timeout=20)
        assert lines(world, job)[0].output["body"]["choices"][0]["text"] == "a\ufffdb \ufffdc"  # type: ignore[index]
        assert outputs(world, talk)[0]["body"]["choices"][0]["message"]["content"] == "a\ufffdb \ufffdc"
