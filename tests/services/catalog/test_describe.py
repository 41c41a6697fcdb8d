"""Figures of models, quantized ones among them."""

from typing import Any

import pytest

from services.catalog.describe import describe, layout_of, unpacked_shapes
from services.catalog.safety import Contents
from services.catalog.tensors import Tensor

CONTEXT = {"max_position_embeddings": 512}


CACHE = {"kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"}}


def compressed(bits: int, kind: str = "int", strategy: str = "channel") -> dict[str, Any]:
    """As llm-compressor writes it."""
    weights = {"num_bits": bits, "type": kind, "strategy": strategy}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


def contents(config: dict[str, Any], *tensors: Tensor) -> Contents:
    return Contents({}, {"config.json": CONTEXT | config}, {"model.safetensors": tensors})


def tensor(name: str, dtype: str, *shape: int) -> Tensor:
    return Tensor(name, dtype, shape, 0, 0)


class TestDtype:
    @pytest.mark.parametrize(
        ("config", "dtype"),
        [
            (compressed(8), "int8"),
            (compressed(4), "int4"),
            (compressed(8, "float"), "fp8"),
            (compressed(4, "float"), "fp4"),
            (compressed(4, "float", strategy="tensor_group"), "nvfp4"),
            (compressed(8, "float") | CACHE, "fp8-kv"),
            (compressed(4) | CACHE, "int4"),
            ({"quant_method": "gptq", "bits": 4}, "int4"),
            (compressed(0) | {"bits": 0}, None),
            ({"quant_method": "fp8"}, "fp8"),
        ],
    )
    def test_of_quantized_weights(self, config: dict[str, Any], dtype: str | None) -> None:
        found = layout_of({"quantization_config": config})
        assert (found and found.main.dtype) == dtype

    @pytest.mark.parametrize(
        "config", [{}, {"quantization_config": None}, {"quantization_config": {"config_groups": []}}]
    )
    def test_of_others_is_what_most_weights_have(self, config: dict[str, Any]) -> None:
        found = describe(contents(config, tensor("a.weight", "BF16", 8, 8), tensor("norm.weight", "F32", 8)))
        assert (found.dtype, found.parameters) == ("bf16", 72)


class TestPacked:
    CONFIG = compressed(4)
    ROWS = (
        tensor("q.weight_packed", "I32", 64, 16),
        tensor("q.weight_scale", "BF16", 64, 1),
        tensor("q.weight_shape", "I64", 2),
        tensor("lm_head.weight", "BF16", 64, 128),
    )

    def test_counts_what_is_inside(self) -> None:
        found = describe(contents({"quantization_config": self.CONFIG}, *self.ROWS))
        assert (found.parameters, found.dtype) == (64 * 128 * 2, "int4")

    def test_shapes_are_those_before_packing(self) -> None:
        shapes = unpacked_shapes(list(self.ROWS), {"quantization_config": self.CONFIG})
        assert shapes == {"q": (64, 128), "lm_head": (64, 128)}


class TestSchemes:
    """Figures of a layer of 64 × 128 weights as each of our schemes stores it, beside a head in bf16."""

    def stored(self, config: dict[str, Any], *tensors: Tensor) -> tuple[str, int]:
        head = tensor("lm_head.weight", "BF16", 32, 64)
        found = describe(contents({"quantization_config": config}, *tensors, head))
        assert unpacked_shapes([*tensors, head], found.config)["q"] == (64, 128)
        return found.dtype, found.parameters - head.elements

    def test_eight_bits_with_a_scale_a_row(self) -> None:
        scale = tensor("q.weight_scale", "BF16", 64, 1)
        assert self.stored(compressed(8), tensor("q.weight", "I8", 64, 128), scale) == ("int8", 64 * 128)
        assert self.stored(compressed(8, "float"), tensor("q.weight", "F8_E4M3", 64, 128), scale) == ("fp8", 64 * 128)

    def test_static_scales_of_inputs_and_of_the_cache(self) -> None:
        scales = [tensor(f"q.{name}", "BF16", 1) for name in ("weight_scale", "input_scale")]
        cache = [tensor(f"attn.{name}_scale", "BF16", 1) for name in ("k", "v")]
        weight = tensor("q.weight", "F8_E4M3", 64, 128)
        assert self.stored(compressed(8, "float"), weight, *scales) == ("fp8", 64 * 128)
        assert self.stored(compressed(8, "float") | CACHE, weight, *scales, *cache) == ("fp8-kv", 64 * 128)

    @pytest.mark.parametrize(("bits", "dtype"), [(4, "int4"), (8, "int8")])
    def test_groups_packed_into_words(self, bits: int, dtype: str) -> None:
        rows = [
            tensor("q.weight_packed", "I32", 64, 128 * bits // 32),
            tensor("q.weight_scale", "BF16", 64, 1),
            tensor("q.weight_shape", "I64", 2),
            tensor("q.weight_g_idx", "I32", 128),
        ]
        assert self.stored(compressed(bits, strategy="group"), *rows) == (dtype, 64 * 128)

    def test_four_bit_floats_two_to_a_byte(self) -> None:
        rows = [
            tensor("q.weight_packed", "U8", 64, 64),
            tensor("q.weight_scale", "F8_E4M3", 64, 8),
            tensor("q.weight_global_scale", "F32", 1),
            tensor("q.input_global_scale", "F32", 1),
        ]
        assert self.stored(compressed(4, "float", strategy="tensor_group"), *rows) == ("nvfp4", 64 * 128)

    def test_some_layers_have_another_scheme(self) -> None:
        groups = {
            "group_0": {"weights": {"num_bits": 4, "type": "int"}, "targets": ["Linear"]},
            "group_1": {"weights": {"num_bits": 8, "type": "int"}, "targets": ["v", "k"]},
        }
        for config in ({"config_groups": groups}, {"config_groups": dict(reversed(groups.items()))}):
            rows = [tensor("q.weight_packed", "I32", 64, 16), tensor("v.weight_packed", "I32", 64, 32)]
            assert self.stored(config, *rows) == ("int4", 2 * 64 * 128)
            assert unpacked_shapes(rows, {"quantization_config": config})["v"] == (64, 128)

    def test_a_configuration_that_is_none(self) -> None:
        for config in (
            {"config_groups": {"a": None, "b": {"weights": 1}, "c": {"weights": {"num_bits": "4"}}}, "bits": True},
            {"config_groups": {"a": {"weights": {"num_bits": 4}, "targets": 7}}},
        ):
            found = layout_of({"quantization_config": config})
            assert found is None or found.main.bits == 4
