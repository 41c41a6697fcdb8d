"""What an engine needs, and what is said when it cannot have it. GiB of one device."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.workers.types import Measure
from shared.contracts.engine import EXIT_OOM
from shared.contracts.serving import Serving
from shared.errors import UnknownClass
from shared.queues import GIB
from shared.settings import Settings
from workers.runtime.post_mortem import OUT_OF_MEMORY, cause
from workers.runtime.served import ServedModel
from workers.runtime.sizing import Sizes, budget


def llama_8b(**serving: Any) -> ServedModel:
    return ServedModel(
        digest="d" * 64,
        name="llama",
        fetch=lambda: Path("/"),
        serving=Serving(**serving),
        weight_bytes=int(16.1e9),
        parameters=8_030_000_000,
        dtype="bf16",
        kv_bytes_per_token=131_072,
        kv_heads=8,
        context_length=8192,
    )


def sizes(**settings: Any) -> Sizes:
    return Sizes(Settings(_env_file=None, **settings))


class TestNeed:
    def test_a_gpu_engine_asks_for_weights_and_one_long_sequence_and_can_use_more(self) -> None:
        size = sizes(gpu_class="h200").of(llama_8b(), devices=1)
        assert 17 < size.need.least / GIB < 18  # 15 of weights, 1 of cache, 1.5 of context and graphs
        assert size.need.most / GIB > 100  # 96 sequences of 8,192 tokens

    def test_fewer_sequences_leave_room_for_other_models(self) -> None:
        size = sizes(gpu_class="h200", engine_headroom=0).of(llama_8b(max_in_flight=8), devices=1)
        assert size.need.most / GIB < 25

    def test_tensor_parallel_splits_it(self) -> None:
        one, four = (sizes(gpu_class="h200").of(llama_8b(), devices=n) for n in (1, 4))
        assert (four.ranks, four.slots) == (4, 4)
        assert four.need.least < one.need.least / 2

    def test_a_cpu_engine_computes_in_full_width_and_its_ranks_share_a_slot(self) -> None:
        size = sizes().of(llama_8b(tensor_parallel=2), devices=1)
        assert (size.ranks, size.slots, size.kv_tokens) == (2, 1, 16_384)
        assert 34 < size.need.least / GIB < 36  # 29.9 of weights, 4 of cache in fp32, 2 processes
        assert sizes().dtype(llama_8b()) == "float32"
        assert sizes(gpu_class="h200").dtype(llama_8b()) == "bfloat16"

    @pytest.mark.parametrize(
        ("dtype", "asked", "expected"),
        [
            ("int4", {"engine": "vllm"}, "bfloat16"),
            ("int8", {"engine": "vllm"}, "bfloat16"),
            ("bf16", {"engine": "vllm"}, "float32"),
            ("int4", {}, "float32"),  # our own engine
            ("int4", {"engine": "vllm", "dtype": "float16"}, "float16"),
        ],
    )
    def test_vllms_kernels_for_packed_weights_have_no_float32(
        self, *, dtype: str, asked: dict[str, Any], expected: str
    ) -> None:
        assert sizes().dtype(replace(llama_8b(**asked), dtype=dtype)) == expected

    @pytest.mark.parametrize("gpu_class", ["cpu", "h200"])
    def test_our_own_engine_unpacks_quantized_weights_and_vllm_does_not(self, gpu_class: str) -> None:
        def least(engine: str) -> float:
            model = replace(llama_8b(engine=engine), dtype="int4", weight_bytes=5 * GIB)
            return sizes(gpu_class=gpu_class).of(model, devices=1).need.least / GIB

        full = 8.03e9 * (4 if gpu_class == "cpu" else 2) / GIB
        assert full < least("transformers") < full + 7
        assert 5 < least("vllm") < 9

    def test_a_measure_counts_more_than_an_estimate(self) -> None:
        measure = Measure("d" * 64, "cpu", "transformers", 1, load_s=2.0, memory_bytes=GIB)
        assert sizes().of(llama_8b(), devices=1, measure=measure).need.least / GIB == pytest.approx(1.05)


class TestBudget:
    def test_is_what_the_setting_says_else_most_of_the_class(self) -> None:
        assert budget(Settings(_env_file=None, engine_memory_gib=3)) == 3 * GIB
        assert budget(Settings(_env_file=None, gpu_class="h200")) / GIB == pytest.approx(140.4 * 0.9)
        assert budget(Settings(_env_file=None)) / GIB <= 16 * 0.9

    def test_of_an_unknown_class_there_is_none(self) -> None:
        with pytest.raises(UnknownClass):
            budget(Settings(_env_file=None, gpu_class="gtx1080"))


class TestOutOfMemory:
    def test_the_next_degree_divides_the_heads_and_the_devices(self) -> None:
        table = sizes(gpu_class="l40s")
        size = table.of(llama_8b(), devices=1)
        wider = table.next_degree(llama_8b(), size, devices=3)
        assert wider is not None
        assert (wider.ranks, wider.slots) == (2, 2)
        assert table.next_degree(llama_8b(), wider, devices=3) is None
        assert sizes().next_degree(llama_8b(), size, devices=8) is None  # a CPU's memory is one

    def test_the_advice_says_who_needs_what_and_what_to_do(self) -> None:
        table = sizes(gpu_class="rtx3090")
        error = table.too_large(llama_8b(), table.of(llama_8b(), devices=1))
        for told in ("llama needs about 17", "21.6 GiB on 1 device(s) of class rtx3090", "max_in_flight", "quantize"):
            assert told in str(error.detail)
        assert not error.retryable

    @pytest.mark.parametrize(
        ("words", "status"),
        [
            ("", EXIT_OOM),
            ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", 1),
            ("ValueError: No available memory for the cache blocks.", 70),
        ],
    )
    def test_is_told_apart_from_other_deaths(self, words: str, status: int) -> None:
        error = cause(words, status=status)
        assert (error.code, error.retryable) == (OUT_OF_MEMORY, True)

    @pytest.mark.parametrize(
        ("words", "status", "code"),
        [
            ("CUDA error: an illegal memory access was encountered", 1, "engine_device_failed"),
            ('{"message": "load_failed"}', 70, "engine_load_failed"),
            ("", -9, "engine_killed"),
            ("", 1, "engine_failed"),
        ],
    )
    def test_and_others_from_it(self, words: str, status: int, code: str) -> None:
        assert cause(words, status=status).code == code
