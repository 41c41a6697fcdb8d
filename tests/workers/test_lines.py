"""Lines as requests: what is sent, what it is expected to take, and under which key its answer is kept."""

from typing import Any
from uuid import uuid4

from services.inference.service import AdapterModel, ServedModel
from services.jobs.types import Claim
from services.responses.keys import key_of
from shared.contracts.caching import CacheWish
from shared.contracts.inference import InferenceSpec
from shared.contracts.openai import ChatBody, CompletionBody, parse
from shared.contracts.serving import Serving
from shared.db.models import JobItem
from shared.manifest import Manifest
from workers.operations.asking import Answered
from workers.operations.batch import Bodies
from workers.operations.lines import Line, Requests

TENANT = uuid4()
TUNED = AdapterModel(id=uuid4(), name="tuned", digest="adapter", manifest=Manifest(()), rank=8)
CHAT = {"messages": [{"role": "user", "content": "Hello you"}]}


def line(given: dict[str, Any], *, adapter: AdapterModel | None = None, **spec: Any) -> Line:
    """One line of a job, as an attempt makes a request of it."""
    wish = InferenceSpec(model="m", prompts=["not read"], **{"max_tokens": 16, **spec})
    stored = wish.model_dump(mode="json", by_alias=True, exclude={"prompts", "messages"})
    return Requests(claim("inference", stored), served(adapter)).line(JobItem(line_no=7, input=given))


def body(given: dict[str, Any], *, endpoint: str = "/v1/chat/completions", adapter: AdapterModel | None = None) -> Line:
    """One line of a batch, as an attempt makes a request of it."""
    made = bodies(endpoint, adapter=adapter).line(JobItem(line_no=7, input=given))
    assert isinstance(made, Line), made
    return made


def bodies(endpoint: str = "/v1/chat/completions", *, adapter: AdapterModel | None = None) -> Bodies:
    return Bodies(claim("batch", {"endpoint": endpoint}), served(adapter))


def claim(kind: str, spec: dict[str, Any]) -> Claim:
    return Claim(
        job_id=uuid4(),
        tenant_id=TENANT,
        kind=kind,
        spec=spec,
        queue="cpu.serve",
        gpu_class="cpu",
        tier=1,
        devices=1,
        plan={},
        attempt=1,
        lease_id=uuid4(),
        parent_id=None,
        checkpoint_id=None,
        progress_done=0,
        progress_total=1,
        seconds_left=None,
        max_runtime_s=None,
    )


def served(adapter: AdapterModel | None) -> ServedModel:
    return ServedModel(
        id=uuid4(),
        tenant_id=TENANT,
        name="m",
        digest="base",
        manifest=Manifest(()),
        config={},
        bytes=1,
        parameters=1,
        dtype="bf16",
        context_length=64,
        kv_bytes_per_token=1,
        kv_heads=1,
        serving=Serving(),
        adapter=adapter,
    )


class TestRequest:
    def test_carries_the_lines_own_text_and_the_specs_wishes(self):
        made = line({"prompt": "Hello you"}, presence_penalty=0.5, stop=["x"], logit_bias={"3": 1.0})
        assert (made.number, made.path) == (7, "/v1/completions")
        assert made.body["prompt"] == "Hello you"
        assert made.body["model"] == "base"
        told = {name: made.body[name] for name in ("presence_penalty", "stop", "logit_bias", "max_tokens")}
        assert told == {"presence_penalty": 0.5, "stop": ["x"], "logit_bias": {"3": 1.0}, "max_tokens": 16}
        assert "cache" not in made.body

    def test_names_an_adapter_by_its_digest(self):
        assert line(CHAT, adapter=TUNED).body["model"] == "adapter"

    def test_is_expected_to_take_its_prompt_and_its_longest_output(self):
        cost = line(CHAT).cost
        assert (cost.prompt_tokens, cost.output_tokens) == (2, 16)


class TestKey:
    def test_is_that_of_the_interactive_call(self):
        asked = {"model": "any name", "temperature": 0, "max_tokens": 16}
        text = key_of(parse(asked | {"prompt": ["a"]}, CompletionBody), tenant_id=TENANT, digest="base")
        assert line({"prompt": "a"}).key == text
        chat = parse(asked | CHAT | {"stream": True}, ChatBody)
        assert line(CHAT).key == key_of(chat, tenant_id=TENANT, digest="base")
        tuned = key_of(chat, tenant_id=TENANT, digest="base", adapter="adapter")
        assert line(CHAT, adapter=TUNED).key == tuned != line(CHAT).key

    def test_a_sampled_line_has_none_unless_it_has_a_seed_or_was_asked_for(self):
        assert line(CHAT, temperature=0.5).key is None
        assert line(CHAT, temperature=0.5, seed=1).key is not None
        assert line(CHAT, temperature=0.5, cache={"mode": "on"}).key is not None

    def test_equal_lines_run_once_even_without_the_cache(self):
        assert line(CHAT, cache={"mode": "off"}).key == line(CHAT).key is not None
        assert line(CHAT, cache={"mode": "off"}, temperature=0.5).key is None


class TestBody:
    def test_is_sent_as_it_was_written_without_what_only_we_read(self):
        given = {**CHAT, "model": "any name", "user": "u", "top_p": None, "cache": {"mode": "off"}, "temperature": 0}
        made = body(given)
        assert made.body == {**CHAT, "model": "base", "temperature": 0}
        assert (made.number, made.path, made.name) == (7, "/v1/chat/completions", "any name")
        assert body(given, adapter=TUNED).body["model"] == "adapter"

    def test_has_the_key_of_the_call_and_a_seed_of_its_own_when_it_samples(self):
        asked = {**CHAT, "model": "m", "max_tokens": 4}
        greedy = asked | {"temperature": 0}
        assert body(greedy).key == key_of(parse(greedy, ChatBody), tenant_id=TENANT, digest="base")
        assert "seed" not in body(greedy).body
        sampled = body(asked)
        seeded = asked | {"seed": sampled.body["seed"]}
        assert sampled.key == body(seeded).key == key_of(parse(seeded, ChatBody), tenant_id=TENANT, digest="base")
        assert body(asked | {"user": "else", "temperature": 1.0}).body["seed"] == sampled.body["seed"]
        assert body(asked | {"max_tokens": 5}).body["seed"] != sampled.body["seed"]

    def test_that_takes_any_cached_answer_is_looked_up_as_it_stands(self):
        asked = {**CHAT, "model": "m", "cache": {"mode": "on", "ttl": 60}}
        wish = CacheWish(mode="on", ttl=60)
        made = body(asked)
        bare = {name: value for name, value in asked.items() if name != "cache"}
        assert made.key == key_of(parse(bare, ChatBody), tenant_id=TENANT, digest="base", wish=wish)
        assert (made.wish, "seed" in made.body) == (wish, True)

    def test_is_expected_to_take_all_its_choices_and_what_the_context_leaves(self):
        named = {"model": "m"}
        assert (body(CHAT | named).cost.prompt_tokens, body(CHAT | named).cost.output_tokens) == (2, 62)
        asked = {"prompt": ["a" * 8, "b" * 12], "n": 2} | named
        cost = body(asked, endpoint="/v1/completions").cost
        assert (cost.prompt_tokens, cost.output_tokens) == (5, 16 * 4)
        embedded = body({"input": ["a" * 8, "b" * 8]} | named, endpoint="/v1/embeddings")
        assert (embedded.cost.prompt_tokens, embedded.cost.output_tokens, embedded.answers) == (4, 0, 2)

    def test_calls_of_tools_are_named_after_the_line(self):
        def answer(call_id: str) -> Answered:
            call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
            choice = {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call, dict(call)]}}
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
            return Answered(200, {"id": call_id, "created": 1, "choices": [choice], "usage": usage})

        form, made = bodies(), body(CHAT | {"model": "m"})
        one, two = (form.result(made, answer(name)).output for name in ("call_1", "call_2"))
        assert one is not None
        assert one == two
        first, second = one["body"]["choices"][0]["message"]["tool_calls"]
        assert first["id"] != second["id"]
        assert first["id"].startswith("call_")
        assert one["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}
        assert one["body"]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2}
