"""What compressed-tensors calls our schemes: its own presets (`compressed_tensors/quantization/quant_scheme.py`)."""

from typing import Final

from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationScheme,
    QuantizationStrategy,
    QuantizationType,
    preset_name_to_scheme,
)

from shared.contracts.compression import GROUP_SIZE, SCHEMES, Scheme

_PRESETS: Final = {
    Scheme.INT8: "INT8",
    Scheme.INT8_DYNAMIC: "INT8",
    Scheme.W4A16: "W4A16",
    Scheme.FP8_DYNAMIC: "FP8_DYNAMIC",
    Scheme.FP8: "FP8",
    Scheme.FP8_KV: "FP8_DYNAMIC",
    Scheme.NVFP4: "NVFP4",
}

#: Keys and values in the cache under `fp8-kv`: 8-bit floats with one scale a layer, as vLLM keeps them.
CACHE: Final = QuantizationArgs(
    num_bits=8, type=QuantizationType.FLOAT, strategy=QuantizationStrategy.TENSOR, symmetric=True, dynamic=False
)


def arguments(scheme: Scheme, *, group_size: int | None, targets: list[str]) -> QuantizationScheme:
    """How a scheme keeps the weights and inputs of layers; `group_size` counts where groups can be chosen."""
    if scheme is Scheme.W8A16:  # its preset has groups of 128, which every engine would have to support
        weights = QuantizationArgs(num_bits=8, type=QuantizationType.INT, strategy=QuantizationStrategy.CHANNEL)
        return QuantizationScheme(targets=targets, weights=weights)
    found = preset_name_to_scheme(_PRESETS[scheme], targets)
    if SCHEMES[scheme].group_size == GROUP_SIZE and group_size is not None:
        found.weights.group_size = group_size
    return found
