"""Figures of models, quantized ones among them."""

from typing import Any

import pytest

from services.catalog.describe import describe, quantization_of, unpacked_shapes
from services.catalog.safety import Contents
from services.catalog.tensors import Tensor

CONTEXT = {"max_position_embeddings": 512}


def compressed(bits: int, kind: str = "int") -> dict[str, Any]:
    """As llm-compressor writes it."""
    weights = {"num_bits": bits, "type": kind, "strategy": "channel"}
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
            ({"quant_method": "gptq", "bits": 4}, "int4"),
            ({"quant_method": "fp8"}, "fp8"),
        ],
    )
    def test_of_quantized_weights(self, config: dict[str, Any], dtype: str) -> None:
        found = quantization_of({"quantization_config": config})
        assert found is not None
        assert found.dtype == dtype

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
