"""What a tuning asks of its devices, and what is advised: held against what was measured on one H200."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from shared.contracts.tuning import Relief, Training
from shared.contracts.tuning_memory import Fit, Load, Room, Shape, adapter_parameters, fit, halved, memory, relieved
from shared.errors import Unplaceable
from tests.services.jobs import build
from tests.services.tuning.made import GIB, LLAMA_8B, base, model, placed, prepare, upload

LAYER = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), (14_336, 4096), (14_336, 4096), (4096, 14_336)]
ADAPTER = adapter_parameters(LAYER * 32, rank=16)
LLAMA = Shape(8_030_261_248 + ADAPTER, ADAPTER, layers=32, hidden=4096, intermediate=14_336, vocabulary=128_256)


@pytest.fixture
def session(uncommitted: Session) -> Session:
    return uncommitted


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


def chosen(room_gib: float | None, *, devices: int = 1, gpu: bool = True, **training: Any) -> Fit:
    room = Room(None if room_gib is None else int(room_gib * GIB), devices, gpu, 2 if gpu else 4)
    return fit(LLAMA, Training.model_validate(training), batch_size=16, length=2048, room=room)


class TestMemory:
    @pytest.mark.parametrize(
        ("batch", "compiled", "checkpointing", "measured_gib"),
        [(4, False, False, 65.0), (4, True, False, 53.2), (4, True, True, 21.7), (8, True, False, 87.5)],
    )
    def test_as_measured_on_an_h200(
        self, *, batch: int, compiled: bool, checkpointing: bool, measured_gib: float
    ) -> None:
        assert ADAPTER == 41_943_040
        found = memory(LLAMA, Load(batch * 2048, 2, compiled=compiled, checkpointing=checkpointing))
        assert found.total / GIB == pytest.approx(measured_gib, rel=0.01)

    def test_two_devices_share_weights_and_optimizer(self) -> None:
        one, two = (memory(LLAMA, Load(2048, 2, devices=devices)) for devices in (1, 2))
        assert (two.trained, two.activations) == (one.trained // 2, one.activations)
        assert one.weights / 2 < two.weights < one.weights


class TestSetting:
    @pytest.mark.parametrize(
        ("room_gib", "expected"),
        [
            (None, (16, False, False)),
            (126, (8, False, False)),  # of an H200
            (71, (4, False, False)),
            (30, (1, False, False)),
            (20, (2, True, False)),
            (16.9, (1, True, True)),
        ],
    )
    def test_the_quickest_that_fits(self, room_gib: float | None, expected: tuple[int, bool, bool]) -> None:
        found = chosen(room_gib)
        assert (found.micro_batch_size, found.load.checkpointing, found.load.offloading) == expected
        assert found.fits
        assert found.micro_batch_size * found.accumulation == 16

    def test_where_nothing_fits_it_says_so(self) -> None:
        assert (chosen(10).fits, chosen(10).micro_batch_size) == (False, 1)

    def test_what_is_asked_for_stays(self) -> None:
        found = chosen(20, micro_batch_size=2, gradient_checkpointing=False, compile=False)
        assert (found.micro_batch_size, found.load.checkpointing, found.load.compiled) == (2, False, False)
        assert not chosen(126, gpu=False).load.compiled
        assert chosen(126, gradient_checkpointing=True).load.checkpointing

    def test_each_device_has_its_part_of_the_batch(self) -> None:
        found = chosen(71, devices=2)
        assert (found.micro_batch_size, found.accumulation) == (4, 2)

    def test_relief_comes_on_top(self) -> None:
        found = chosen(126)
        half = relieved(found, Relief(halvings=2), shape=LLAMA)
        assert (half.micro_batch_size, half.accumulation, half.memory.total < found.memory.total) == (2, 8, True)
        last = relieved(found, Relief(halvings=9, gradient_checkpointing=True), shape=LLAMA)
        assert (last.micro_batch_size, last.load.checkpointing) == (1, True)

    def test_halves_divide_the_batch(self) -> None:
        assert [halved(each, 12) for each in (12, 6, 4, 3, 2, 1)] == [6, 3, 2, 1, 1, 1]


class TestPlacing:
    def test_a_small_model_trains_on_a_cpu(self, session: Session, tenant: UUID) -> None:
        base(session, tenant)
        plan = placed(session, prepare(session, tenant), "cpu")
        assert (plan.queue, plan.devices) == ("cpu.forge", 1)

    @pytest.mark.parametrize(
        "spec",
        [
            {"devices": 2},
            {"training": {"precision": "bf16"}},
            {"training": {"activation_offloading": True}},
            {"training": {"compile": True}},
        ],
    )
    def test_what_a_cpu_is_none_for(self, session: Session, tenant: UUID, spec: dict[str, Any]) -> None:
        base(session, tenant)
        prepared = prepare(session, tenant, **spec)
        with pytest.raises(Unplaceable, match="class cpu is none for it"):
            placed(session, prepared, "cpu")
        plan = placed(session, prepared)
        assert (plan.gpu_class != "cpu", plan.devices) == (True, spec.get("devices", 1))

    def test_all_weights_of_an_8b_model_need_several_devices(self, session: Session, tenant: UUID) -> None:
        model(session, tenant, **LLAMA_8B)
        alone = prepare(session, tenant, method="full")
        with pytest.raises(Unplaceable, match=r"the job needs 12\d GiB"):
            placed(session, alone, "a100-80g")
        assert placed(session, prepare(session, tenant, method="full", devices=2), "h100").devices == 2


class TestAdvice:
    def test_of_an_8b_model_on_an_h200(self, session: Session, tenant: UUID) -> None:
        model(session, tenant, **LLAMA_8B)
        file_id = upload(session, tenant, bytes=40_000_000)
        prepared = prepare(session, tenant, data=[{"type": "file", "file_id": file_id}])
        assert prepared.advise is not None
        advice = prepared.advise(placed(session, prepared, "h200"))
        told = advice.told
        assert told["trainable_parameters"] == ADAPTER
        assert (told["setting"]["micro_batch_size"], told["setting"]["precision"]) == (8, "bf16")
        assert told["setting"]["gradient_checkpointing"] is False
        assert told["memory"]["total"] < told["memory"]["room"]
        assert told["tokens"] == 30_000_000
        assert told["tokens_per_second"] == pytest.approx(16_400, rel=0.05)  # 16,663 were measured
        assert advice.planned_gpu_s == pytest.approx(told["seconds"], rel=0.001)
        assert told["cost"] == pytest.approx(told["seconds"] / 3600 * 3.8, rel=0.001)
        assert any("micro-batches of 8" in word for word in told["words"])

    def test_modules_that_are_named_are_fewer(self, session: Session, tenant: UUID) -> None:
        base(session, tenant)
        trainable = []
        for modules in ("all-linear", ["q_proj", "v_proj"]):
            prepared = prepare(session, tenant, lora={"rank": 8, "target_modules": modules})
            assert prepared.advise is not None
            trainable.append(prepared.advise(placed(session, prepared, "cpu")).told["trainable_parameters"])
        assert trainable[1] == 3 * 8 * ((256 + 256) + (128 + 256)) < trainable[0]
