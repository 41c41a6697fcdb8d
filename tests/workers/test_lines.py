"""Lines as requests: what is sent, what it is expected to take, and under which key its answer is kept."""

from typing import Any
from uuid import uuid4

from services.inference.service import AdapterModel, ServedModel
from services.jobs.types import Claim
from services.responses.keys import key_of
from shared.contracts.inference import InferenceSpec
from shared.contracts.openai import ChatBody, CompletionBody, parse
from shared.contracts.serving import Serving
from shared.db.models import JobItem
from shared.manifest import Manifest
from workers.operations.lines import Line, Requests

TENANT = uuid4()
TUNED = AdapterModel(id=uuid4(), name="tuned", digest="adapter", manifest=Manifest(()), rank=8)
CHAT = {"messages": [{"role": "user", "content": "Hello you"}]}


def line(given: dict[str, Any], *, adapter: AdapterModel | None = None, **spec: Any) -> Line:
    """One line of a job, as an attempt makes a request of it."""
    wish = InferenceSpec(model="m", prompts=["not read"], **{"max_tokens": 16, **spec})
    claim = Claim(
        job_id=uuid4(),
        tenant_id=TENANT,
        kind="inference",
        spec=wish.model_dump(mode="json", by_alias=True, exclude={"prompts", "messages"}),
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
    model = ServedModel(
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
    return Requests(claim, model).line(JobItem(line_no=7, input=given))


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
