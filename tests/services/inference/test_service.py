"""What an inference request becomes, and what it is refused for."""

from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.catalog.figures import kv_bytes_per_token
from services.inference import service as inference
from services.inference.models import facts
from services.jobs import repository, service
from shared.contracts.inference import FORWARDED, InferenceSpec
from shared.contracts.jobs import Driver, State
from shared.contracts.openai import CompletionBody, GenerateBody, parse
from shared.db.models import InferenceJob, Job
from shared.errors import UnknownModel, Unplaceable, Unprocessable, ValidationFailed
from shared.queues import gpu_classes
from shared.storage import Blob
from tests.services.inference import build
from tests.services.jobs import build as jobs

CHAT = [{"role": "user", "content": "what does len do?"}]


@pytest.fixture
def tenant(session: Session) -> UUID:
    return jobs.tenant(session)


@pytest.fixture(autouse=True)
def _model(session: Session, tenant: UUID) -> None:
    build.model(session, tenant)


def lines(session: Session, job: Job) -> list[dict[str, object]]:
    return [line.input for line in repository.lines(session, job.tenant_id, job.id, limit=5000)]


class TestSubmit:
    def test_prompts_become_lines_and_leave_the_spec(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant, prompts=["a", "b"], max_tokens=48)
        assert lines(session, job) == [{"prompt": "a"}, {"prompt": "b"}]
        assert job.spec["max_tokens"] == 48
        assert not {"prompts", "messages"} & set(job.spec)
        assert (job.progress_total, job.progress_unit, job.driver) == (2, "lines", Driver.WORKER)

    def test_chats_become_lines(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant, messages=[CHAT])
        assert lines(session, job) == [{"messages": CHAT}]

    def test_the_model_is_fixed_with_the_job(self, session: Session, tenant: UUID) -> None:
        first = build.job(session, tenant, prompts=["a"])
        build.model(session, tenant, version=2, digest="ef" * 32)
        row = session.get_one(InferenceJob, first.id)
        assert row.model_digest == "cd" * 32
        (claimed,) = jobs.claim(session)
        model = inference.model_of(session, claimed)
        assert (model.digest, model.name, model.tenant_id) == ("cd" * 32, "tiny", tenant)
        assert [entry.path for entry in model.manifest] == ["config.json"]

    def test_more_than_a_thousand_lines_are_child_jobs(self, session: Session, tenant: UUID) -> None:
        parent = build.job(session, tenant, prompts=["x"] * 2500)
        claims = jobs.claim(session, limit=10_000)
        assert sorted(claim.progress_total or 0 for claim in claims) == [500, 1000, 1000]
        assert {claim.parent_id for claim in claims} == {parent.id}
        assert {inference.model_of(session, claim).digest for claim in claims} == {"cd" * 32}
        assert jobs.state(session, parent.id) == State.RUNNING

    def test_a_longer_job_is_planned_longer(self, session: Session, tenant: UUID) -> None:
        short = build.job(session, tenant, prompts=["x" * 400], max_tokens=100)
        long = build.job(session, tenant, prompts=["x" * 400] * 10, max_tokens=100)
        assert short.planned_gpu_s == pytest.approx(200 / inference.TOKENS_PER_GPU_S)
        assert long.planned_gpu_s == pytest.approx(10 * short.planned_gpu_s)

    def test_a_file_waits_for_the_courier(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant, input_file=build.file(session, tenant, Blob("ab" * 32, 100)))
        assert (job.driver, job.state, job.progress_total) == (Driver.CHILDREN, State.QUEUED, None)
        assert jobs.claim(session) == []


class TestRefusals:
    def test_an_unknown_model(self, session: Session, tenant: UUID) -> None:
        with pytest.raises(UnknownModel) as refused:
            service.submit(session, tenant, build.request(model="gpt-9", prompts=["a"]))
        assert refused.value.param == "spec.model"

    def test_another_tenants_model(self, session: Session) -> None:
        with pytest.raises(UnknownModel):
            build.job(session, jobs.tenant(session), prompts=["a"])

    def test_more_tokens_than_the_context_holds(self, session: Session, tenant: UUID) -> None:
        with pytest.raises(ValidationFailed, match="at most 2047") as refused:
            build.job(session, tenant, prompts=["a"], max_tokens=2048)
        assert (refused.value.status, refused.value.param) == (422, "spec.max_tokens")

    @pytest.mark.parametrize("file", ["file-nonsense", "file-" + "0" * 32])
    def test_a_file_that_is_not_there(self, session: Session, tenant: UUID, file: str) -> None:
        with pytest.raises(Unprocessable) as refused:
            build.job(session, tenant, input_file=file)
        assert (refused.value.status, refused.value.param) == (422, "spec.input_file")

    @pytest.mark.parametrize(
        ("spec", "param"),
        [
            ({}, "spec"),
            ({"prompts": ["a"], "messages": [CHAT]}, "spec"),
            ({"prompts": []}, "spec.prompts"),
            ({"prompts": ["a\x00b"]}, "spec.prompts.0"),
            ({"prompts": ["a"], "max_tokens": 0}, "spec.max_tokens"),
            ({"prompts": ["a"], "max_tokens": "48"}, "spec.max_tokens"),
            ({"prompts": ["a"], "temperature": float("nan")}, "spec.temperature"),
            ({"prompts": ["a"], "n": 2}, "spec.n"),
            ({"messages": [[{"role": "robot", "content": "x"}]]}, "spec.messages.0.0.role"),
        ],
    )
    def test_a_wrong_field_is_named(self, session: Session, tenant: UUID, spec: dict[str, object], param: str) -> None:
        with pytest.raises(ValidationFailed) as refused:
            build.job(session, tenant, **spec)
        assert param in [error.param for error in refused.value.errors]

    def test_a_model_that_nothing_holds(self, session: Session, tenant: UUID) -> None:
        build.model(session, tenant, name="huge", bytes=4000 * 2**30, parameters=2000 * 2**30)
        with pytest.raises(Unplaceable, match="the job needs 4000 GiB at bf16"):
            service.submit(session, tenant, build.request(model="huge", prompts=["a"]))


class TestRetry:
    @pytest.mark.parametrize("spec", [{"prompts": ["a", "b"]}, {"messages": [CHAT, CHAT]}])
    def test_lines_are_restored(self, session: Session, tenant: UUID, spec: dict[str, object]) -> None:
        job = build.job(session, tenant, **spec, temperature=0.5)
        service.cancel(session, tenant, job.id)
        again = service.retry(session, tenant, job.id).job
        assert lines(session, again) == lines(session, job)
        assert (again.spec, again.retry_of) == (job.spec, job.id)

    def test_a_file_is_read_again(self, session: Session, tenant: UUID) -> None:
        file = build.file(session, tenant, Blob("ab" * 32, 100))
        job = build.job(session, tenant, input_file=file)
        service.cancel(session, tenant, job.id)
        again = service.retry(session, tenant, job.id).job
        assert (again.spec["input_file"], again.driver) == (file, Driver.CHILDREN)


class TestModelFacts:
    def test_the_kv_cache_of_llama_3_8b_takes_128_kib_a_token(self) -> None:
        assert kv_bytes_per_token(build.LLAMA_8B, "bf16") == 131_072

    def test_quantized_weights_keep_a_16_bit_cache(self) -> None:
        assert kv_bytes_per_token(build.LLAMA_8B, "fp8") == 131_072

    def test_a_configuration_that_says_nothing_counts_as_nothing(self) -> None:
        assert kv_bytes_per_token({"num_hidden_layers": "many"}, "bf16") == 0

    def test_a_multimodal_model_is_judged_by_its_text_part(self, session: Session, tenant: UUID) -> None:
        model = build.model(session, tenant, name="multi", config={"text_config": build.LLAMA_8B})
        assert facts(model).kv_heads == 8

    def test_an_engine_gets_room_for_others_up_to_its_context(self, session: Session, tenant: UUID) -> None:
        small = facts(build.model(session, tenant, name="small", context_length=2048))
        large = facts(build.model(session, tenant, name="large", context_length=131_072))
        assert small.needs(100).tokens == 2048
        assert (large.needs(100).tokens, large.needs(20_000).tokens) == (8192, 20_000)

    def test_an_unknown_dtype_runs_anywhere(self, session: Session, tenant: UUID) -> None:
        assert facts(build.model(session, tenant, name="odd", dtype="F6_E2M3")).needs(1).dtype is None


class TestServing:
    def test_options_decide_what_is_needed(self, session: Session, tenant: UUID) -> None:
        serving = {"dtype": "float32", "context_length": 512, "tensor_parallel": 2}
        needs = facts(build.model(session, tenant, name="wide", serving=serving)).needs(100)
        assert (needs.dtype, needs.tokens, needs.tensor_parallel) == ("fp32", 512, 2)
        assert needs.weight_bytes == 4 * 4_000_000

    def test_quantizing_while_loading_halves_the_weights(self, session: Session, tenant: UUID) -> None:
        needs = facts(build.model(session, tenant, name="fp8", serving={"quantization": "fp8"})).needs(100)
        assert (needs.dtype, needs.weight_bytes) == ("fp8", 4_000_000)

    def test_a_cpu_engine_computes_in_fp32_whatever_is_stored(self, session: Session, tenant: UUID) -> None:
        needs = facts(build.model(session, tenant, name="int8", dtype="int8")).needs(100)
        on_cpu = needs.on(gpu_classes()["cpu"])
        assert (needs.dtype, on_cpu.dtype) == ("int8", "fp32")
        assert on_cpu.weight_bytes == 4 * 4_000_000
        assert on_cpu.kv_bytes_per_token == 2 * needs.kv_bytes_per_token

    def test_the_context_that_is_served_bounds_a_job(self, session: Session, tenant: UUID) -> None:
        build.model(session, tenant, name="short", serving={"context_length": 64})
        with pytest.raises(ValidationFailed, match="at most 63"):
            service.submit(session, tenant, build.request(model="short", prompts=["a"], max_tokens=64))

    def test_a_deleted_model_serves_the_jobs_that_were_accepted(self, session: Session, tenant: UUID) -> None:
        build.job(session, tenant, prompts=["a"])
        session.execute(text("UPDATE models SET deleted_at = clock_timestamp()"))
        (claimed,) = jobs.claim(session)
        assert inference.model_of(session, claimed).name == "tiny"


class TestForwarded:
    def test_lines_carry_what_engines_know(self) -> None:
        assert set(FORWARDED) <= set(GenerateBody.model_fields)
        assert set(FORWARDED) <= set(InferenceSpec.model_fields)

    def test_stored_and_sent_as_openai_spells_them(self, session: Session, tenant: UUID) -> None:
        schema = {"name": "answer", "schema": {"type": "object"}}
        wish = {
            "logit_bias": {"5": -3},
            "response_format": {"type": "json_schema", "json_schema": schema},
            "min_p": 0.1,
        }
        stored = build.job(session, tenant, prompts=["a"], **wish).spec
        sent = {name: stored[name] for name in FORWARDED if stored.get(name) is not None}
        body = parse({**sent, "model": "m", "prompt": "a"}, CompletionBody)
        assert (body.logit_bias, body.min_p) == ({5: -3.0}, 0.1)
        assert body.response_format is not None
        assert body.response_format.json_schema is not None
        assert inference.restore(stored, ({"prompt": "a"},)).logit_bias == {"5": -3.0}

    @pytest.mark.parametrize(
        ("wish", "param"),
        [
            ({"min_p": 2}, "spec.min_p"),
            ({"logit_bias": {"x": 1}}, "spec.logit_bias.x.[key]"),
            ({"response_format": {"type": "xml"}}, "spec.response_format.type"),
        ],
    )
    def test_a_wrong_one_is_named(self, session: Session, tenant: UUID, wish: dict[str, object], param: str) -> None:
        with pytest.raises(ValidationFailed) as refused:
            build.job(session, tenant, prompts=["a"], **wish)
        assert refused.value.errors[0].param == param


class TestRestore:
    def test_round_trip(self) -> None:
        spec = InferenceSpec(model="tiny", prompts=["a"], stop=["\n"], seed=3)
        stored = spec.model_dump(mode="json", exclude=inference.INLINE_SOURCES)
        assert inference.restore(stored, ({"prompt": "a"},)) == spec
