"""Which class and how many devices a job gets, and what it is told when there are none."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy.orm import Session

from services.jobs.plan import Needs, choose, fit
from services.workers import service as workers
from services.workers.types import Slots
from shared.contracts.jobs import Pool
from shared.errors import UnknownClass, Unplaceable
from shared.queues import AUTO, gpu_classes

GIB = 2**30
SMALL = Needs(weight_bytes=GIB // 64, kv_bytes_per_token=1536, tokens=2048, dtype="bf16", kv_heads=2)
EIGHT_B = Needs(weight_bytes=16 * GIB, kv_bytes_per_token=131_072, tokens=8192, dtype="bf16", kv_heads=8)
SEVENTY_B = Needs(weight_bytes=141 * GIB, kv_bytes_per_token=327_680, tokens=8192, dtype="bf16", kv_heads=8)
HUGE = Needs(weight_bytes=2000 * GIB, dtype="bf16", kv_heads=8)


def live(session: Session, *classes: str, pools: Sequence[Pool] = tuple(Pool)) -> None:
    for name in classes:
        slots = {pool: Slots(1, 1) for pool in pools}
        workers.register(session, workers.describe(name, pools=pools, devices=[0], slots=slots))


class TestAuto:
    def test_takes_the_cheapest_live_class_that_fits(self, session: Session) -> None:
        live(session, "h200", "l40s", "rtx4090")
        plan = choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=EIGHT_B)
        assert (plan.gpu_class, plan.queue, plan.devices) == ("rtx4090", "rtx4090.serve", 1)
        assert "live worker" in plan.reason

    def test_a_live_class_beats_a_cheaper_one_without_workers(self, session: Session) -> None:
        live(session, "h200")
        assert choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=SMALL).gpu_class == "h200"

    def test_a_worker_of_another_pool_does_not_count(self, session: Session) -> None:
        live(session, "h200", pools=[Pool.FORGE])
        assert choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=SMALL).gpu_class == "cpu"
        assert choose(session, pool=Pool.FORGE, gpu_class=AUTO, needs=SMALL).gpu_class == "h200"

    def test_without_live_workers_the_cheapest_of_all_waits_for_one(self, session: Session) -> None:
        plan = choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=EIGHT_B)
        assert plan.gpu_class == "jetson-orin"
        assert "waits" in plan.reason

    def test_a_live_class_that_is_too_small_is_passed_over(self, session: Session) -> None:
        live(session, "cpu")
        plan = choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=SEVENTY_B)
        assert plan.gpu_class != "cpu"
        assert "no worker" in plan.reason

    def test_needs_of_nothing_run_anywhere(self, session: Session) -> None:
        live(session, "cpu")
        plan = choose(session, pool=Pool.FORGE, gpu_class=AUTO, needs=Needs())
        assert (plan.queue, plan.devices, plan.memory_bytes) == ("cpu.forge", 1, 0)


class TestDevices:
    def test_what_fits_one_device_gets_one(self) -> None:
        assert fit(gpu_classes()["h200"], EIGHT_B) == 1

    def test_tensor_parallel_for_what_does_not(self) -> None:
        assert fit(gpu_classes()["h200"], SEVENTY_B) == 2
        assert fit(gpu_classes()["a100-40g"], SEVENTY_B) == 4

    def test_degrees_divide_the_kv_heads(self) -> None:
        odd = Needs(weight_bytes=100 * GIB, dtype="bf16", kv_heads=3)
        assert fit(gpu_classes()["a100-80g"], odd) is None

    def test_degrees_stay_on_one_host(self) -> None:
        assert fit(gpu_classes()["rtx4090"], Needs(weight_bytes=100 * GIB, kv_heads=8)) is None

    def test_the_dtype_must_run(self) -> None:
        fp8 = Needs(weight_bytes=GIB, dtype="fp8")
        assert fit(gpu_classes()["a100-80g"], fp8) is None
        assert fit(gpu_classes()["h100"], fp8) == 1

    def test_price_counts_all_devices(self, session: Session) -> None:
        live(session, "l40s", "a100-80g")  # 4 × 1.00 against 2 × 1.80
        plan = choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=SEVENTY_B)
        assert (plan.gpu_class, plan.devices, plan.tensor_parallel) == ("a100-80g", 2, 2)


class TestChosenDegree:
    def test_is_taken_where_fewer_would_do(self) -> None:
        assert fit(gpu_classes()["h200"], replace(EIGHT_B, tensor_parallel=4)) == 4

    def test_must_be_there(self, session: Session) -> None:
        assert fit(gpu_classes()["jetson-orin"], replace(EIGHT_B, tensor_parallel=2)) is None
        with pytest.raises(Unplaceable, match="tensor_parallel 2 cannot be run"):
            choose(session, pool=Pool.SERVE, gpu_class="jetson-orin", needs=replace(EIGHT_B, tensor_parallel=2))

    def test_ranks_on_a_cpu_share_their_host(self, session: Session) -> None:
        live(session, "cpu")
        plan = choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=replace(SMALL, tensor_parallel=2))
        assert (plan.gpu_class, plan.devices, plan.tensor_parallel) == ("cpu", 1, 2)


class TestCpu:
    def test_counts_what_a_cpu_engine_loads(self, session: Session) -> None:
        live(session, "cpu")
        fp8 = Needs(weight_bytes=GIB, dtype="fp8", cpu=Needs(weight_bytes=4 * GIB, dtype="fp32"))
        plan = choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=fp8)
        assert (plan.gpu_class, plan.memory_bytes) == ("cpu", 4 * GIB)
        assert "needs 4 GiB at fp32" in plan.reason

    def test_what_a_cpu_cannot_hold_in_fp32_goes_elsewhere(self, session: Session) -> None:
        live(session, "cpu", "rtx3090")
        wide = Needs(weight_bytes=8 * GIB, dtype="bf16", cpu=Needs(weight_bytes=16 * GIB, dtype="fp32"))
        assert choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=wide).gpu_class == "rtx3090"


class TestNamed:
    def test_is_taken_as_asked(self, session: Session) -> None:
        live(session, "h200", "cpu")
        plan = choose(session, pool=Pool.SERVE, gpu_class="h200", needs=SMALL)
        assert (plan.queue, plan.price_per_gpu_hour) == ("h200.serve", gpu_classes()["h200"].price_per_gpu_hour)
        assert "waits" not in plan.reason

    def test_without_a_worker_the_reason_says_so(self, session: Session) -> None:
        assert "waits" in choose(session, pool=Pool.SERVE, gpu_class="h200", needs=SMALL).reason

    def test_an_unknown_one_is_refused(self, session: Session) -> None:
        with pytest.raises(UnknownClass) as refused:
            choose(session, pool=Pool.SERVE, gpu_class="gtx1080", needs=SMALL)
        assert refused.value.param == "gpu_class"

    def test_one_that_is_too_small_is_refused_in_numbers(self, session: Session) -> None:
        with pytest.raises(Unplaceable, match=r"needs 2000 GiB.*h200 × 8 has 1011 GiB"):
            choose(session, pool=Pool.SERVE, gpu_class="h200", needs=HUGE)

    def test_one_that_cannot_run_the_dtype_is_refused(self, session: Session) -> None:
        with pytest.raises(Unplaceable, match="rtx3090 cannot run fp8"):
            choose(session, pool=Pool.SERVE, gpu_class="rtx3090", needs=Needs(weight_bytes=1, dtype="fp8"))


class TestUnplaceable:
    def test_says_what_is_needed_and_what_there_is(self, session: Session) -> None:
        with pytest.raises(Unplaceable) as refused:
            choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=HUGE)
        assert refused.value.status == 422
        assert refused.value.message == (
            "the job needs 2000 GiB at bf16;"
            " the largest configured GPU class, h200 × 8, has 1011 GiB of 1123 GiB for it"
        )

    def test_a_dtype_that_nothing_runs_is_named(self, session: Session) -> None:
        with pytest.raises(Unplaceable, match="no configured GPU class can run int2"):
            choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=Needs(dtype="int2"))


class TestLiveWorkers:
    def test_are_asked_for_once_a_second(self, session: Session) -> None:
        choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=SMALL)
        live(session, "h200")
        assert choose(session, pool=Pool.SERVE, gpu_class=AUTO, needs=SMALL).gpu_class == "cpu"
