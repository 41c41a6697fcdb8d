"""What jobs of the three kinds ask of their devices, and which classes can run them."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from services.compression import planning
from services.jobs import service
from shared.contracts.compression import SCHEMES, Method, Sampling, Scheme
from shared.contracts.evaluation import TextTask
from shared.contracts.jobs import JobRequest
from shared.db.models import Job
from shared.errors import Unplaceable
from shared.queues import GIB, gpu_classes
from tests.services.compression.build import LLAMA_8B, model
from tests.services.jobs import build

TASK = TextTask(type="text", sequence_length=512)
SAMPLES = Sampling(samples=128, sequence_length=2048)


@pytest.fixture
def session(uncommitted: Session) -> Session:
    return uncommitted


@pytest.fixture
def tenant(session: Session) -> UUID:
    tenant = build.tenant(session)
    model(session, tenant, name="llama", **LLAMA_8B)
    model(session, tenant)
    return tenant


def submit(session: Session, tenant: UUID, kind: str, *, gpu_class: str = "auto", **spec: Any) -> Job:
    request = JobRequest(kind=kind, spec={"model": "llama", **spec}, gpu_class=gpu_class)
    return service.submit(session, tenant, request).job


class TestMemory:
    def test_of_an_evaluation_is_both_models_and_their_logits(self, session: Session, tenant: UUID) -> None:
        llama = model(session, tenant, name="other", **LLAMA_8B)
        needs = planning.for_evaluation([llama, llama], [TASK])
        assert needs.weight_bytes == 2 * 2 * 8_030_261_248 + 4 * 512 * 128_256 * 4
        assert needs.dtype is None

    def test_of_fp32_weights_is_twice_as_much(self, session: Session, tenant: UUID) -> None:
        small = model(session, tenant, name="wide", dtype="fp32")
        assert planning.for_evaluation([small], []).weight_bytes == 4 * small.parameters

    def test_of_a_calibration_holds_the_states_of_a_layer(self, session: Session, tenant: UUID) -> None:
        llama = model(session, tenant, name="other", **LLAMA_8B)
        states, hessians = 128 * 2048 * 4096 * 2, 2 * 14_336**2 * 4
        assert planning.for_calibration(llama, SAMPLES).weight_bytes == 2 * 8_030_261_248 + states + hessians

    def test_of_a_quantization_is_the_larger_of_making_and_judging(self, session: Session, tenant: UUID) -> None:
        llama = model(session, tenant, name="other", **LLAMA_8B)
        judged = planning.for_quantization(llama, [Scheme.INT8], sampling=SAMPLES, tasks=[TASK])
        made = planning.for_quantization(llama, [Scheme.INT8], sampling=SAMPLES, tasks=[])
        alone = planning.for_quantization(llama, [Scheme.FP8_DYNAMIC], sampling=None, tasks=[])
        assert judged.weight_bytes == planning.for_evaluation([llama, llama], [TASK]).weight_bytes
        assert judged.weight_bytes > made.weight_bytes > alone.weight_bytes == 2 * llama.parameters


class TestSeconds:
    def test_are_about_those_that_are_published(self, session: Session, tenant: UUID) -> None:
        llama = model(session, tenant, name="other", **LLAMA_8B)
        large = Sampling(samples=512, sequence_length=2048)
        found = planning.quantization_s(llama, Method.GPTQ, sampling=large, tasks=[])
        assert found == pytest.approx(745, rel=0.05)

    def test_grow_with_what_is_judged(self, session: Session, tenant: UUID) -> None:
        llama = model(session, tenant, name="other", **LLAMA_8B)
        once = planning.evaluation_s([llama], [TASK])
        assert planning.START_S < once < planning.evaluation_s([llama, llama], [TASK])
        assert planning.calibration_s(llama, SAMPLES, [Scheme.INT8]) > planning.START_S


class TestClass:
    @pytest.mark.parametrize(
        ("scheme", "cheapest"),
        [("int8", "jetson-orin"), ("w4a16", "jetson-orin"), ("fp8-dynamic", "l40s"), ("fp8-kv", "l40s")],
    )
    def test_is_the_cheapest_that_serves_the_scheme(
        self, session: Session, tenant: UUID, scheme: str, cheapest: str
    ) -> None:
        job = submit(session, tenant, "quantization", scheme=scheme)
        each = gpu_classes()[job.gpu_class]
        assert SCHEMES[Scheme(scheme)].dtype in each.dtypes
        assert (job.gpu_class, job.devices) == (cheapest, 1)

    def test_must_hold_both_models(self, session: Session, tenant: UUID) -> None:
        with pytest.raises(Unplaceable) as error:
            submit(session, tenant, "quantization", scheme="w4a16", gpu_class="rtx4090")
        assert error.value.param == "gpu_class"
        assert (
            error.value.message == "the job needs 30.9 GiB at int4; GPU class rtx4090 × 1 has 21.6 GiB of 24 GiB for it"
        )

    @pytest.mark.parametrize(
        ("scheme", "gpu_class", "message"),
        [
            ("fp8-dynamic", "a100-80g", "GPU class a100-80g cannot run fp8 (it runs fp32, bf16, fp16, int8, int4)"),
            ("fp8-kv", "cpu", "GPU class cpu cannot run fp8-kv (it runs fp32, bf16, fp16)"),
            ("nvfp4", "h200", "GPU class h200 cannot run nvfp4 (it runs fp32, bf16, fp16, fp8, fp8-kv, int8, int4)"),
            ("nvfp4", "auto", "no configured GPU class can run nvfp4"),
        ],
    )
    def test_must_serve_the_scheme(
        self, session: Session, tenant: UUID, *, scheme: str, gpu_class: str, message: str
    ) -> None:
        with pytest.raises(Unplaceable) as error:
            submit(session, tenant, "quantization", model="tiny", scheme=scheme, gpu_class=gpu_class)
        assert error.value.message.endswith(message)

    @pytest.mark.parametrize("scheme", [each for each, facts in SCHEMES.items() if facts.everywhere])
    def test_cpu_unpacks_the_weights(self, session: Session, tenant: UUID, scheme: Scheme) -> None:
        job = submit(session, tenant, "quantization", model="tiny", scheme=scheme, gpu_class="cpu")
        assert (job.queue, job.devices) == ("cpu.forge", 1)

    def test_must_serve_the_schemes_of_overrides(self, session: Session, tenant: UUID) -> None:
        override = {"layers": ["down_proj"], "scheme": "fp8-dynamic"}
        with pytest.raises(Unplaceable, match="cannot run fp8 "):
            submit(session, tenant, "quantization", scheme="w4a16", overrides=[override], gpu_class="a100-80g")

    def test_several_devices_hold_no_larger_model(self, session: Session, tenant: UUID) -> None:
        model(session, tenant, name="large", **(LLAMA_8B | {"parameters": 60_000_000_000}))
        for name in ("calibration", "evaluation"):
            assert submit(session, tenant, name, model="large", gpu_class="h200").devices == 1
            with pytest.raises(Unplaceable, match="h100 × 1"):
                submit(session, tenant, name, model="large", gpu_class="h100")

    def test_devices_share_the_samples(self, session: Session, tenant: UUID) -> None:
        job = submit(session, tenant, "quantization", scheme="w4a16", devices=2, gpu_class="h200")
        assert (job.devices, job.plan["memory_bytes"] // GIB) == (2, 61)
        with pytest.raises(Unplaceable):
            submit(session, tenant, "quantization", scheme="w4a16", devices=8, gpu_class="rtx4090")

    def test_cpu_is_none_for_several_devices(self, session: Session, tenant: UUID) -> None:
        asked: dict[str, Any] = {"model": "tiny", "scheme": "w4a16", "devices": 2}
        with pytest.raises(Unplaceable, match="class cpu") as error:
            submit(session, tenant, "quantization", **asked, gpu_class="cpu")
        assert error.value.param == "gpu_class"
        assert submit(session, tenant, "quantization", **asked).devices == 2
