"""What a model is, read from its configuration and the headers of its weights."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.catalog.safety import CONFIG, Contents
from services.catalog.tensors import Tensor, UnsafeModel, dtype_of

#: the names under which architectures keep the longest sequence
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")
#: what quantization stores beside the weights: none of it is a parameter
_BESIDE = re.compile(r"\.(weight_shape|g_idx|qzeros|scales|\w*scale(_inv)?|\w*zero_point|\w*_g_idx)$")
_PACKED = (".weight_packed", ".qweight")  #: several weights in one number
_WORD_BITS = {"I32": 32, "U8": 8, "I8": 8}


@dataclass(frozen=True)
class Description:
    """The figures of a model. `dtype` is the class table's word: bf16, fp16, fp32, fp8, int8, int4."""

    config: dict[str, Any]
    parameters: int
    dtype: str
    context_length: int


@dataclass(frozen=True)
class Quantization:
    """How weights are stored."""

    bits: int
    floats: bool

    @property
    def dtype(self) -> str:
        """The class table's word."""
        return f"{'fp' if self.floats else 'int'}{self.bits}"


def describe(contents: Contents) -> Description:
    """The figures of a model that stands alone.

    Raises:
        UnsafeModel: its configuration does not say how long a context it has.
    """
    config = dict(contents.configs[CONFIG])
    quantization, tensors = quantization_of(config), contents.all_tensors
    return Description(
        config=config,
        parameters=sum(_elements(tensor, quantization) for tensor in tensors),
        dtype=quantization.dtype if quantization else dtype_of(tensors),
        context_length=_context_length(config),
    )


def quantization_of(config: Mapping[str, Any]) -> Quantization | None:
    """What `quantization_config` says of the weights (compressed-tensors, GPTQ, AWQ, fp8); None where there is none."""
    told = config.get("quantization_config")
    if not isinstance(told, dict):
        return None
    groups = told.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict) and type(weights.get("num_bits")) is int:
            return Quantization(weights["num_bits"], weights.get("type") == "float")
    if told.get("quant_method") == "fp8":
        return Quantization(8, floats=True)
    return Quantization(told["bits"], floats=False) if type(told.get("bits")) is int else None


def _elements(tensor: Tensor, quantization: Quantization | None) -> int:
    """Weights in a tensor: packed ones are counted, what only helps to unpack them is not."""
    if quantization is None:
        return tensor.elements
    if _BESIDE.search(tensor.name):
        return 0
    if tensor.name.endswith(_PACKED):
        return tensor.elements * _WORD_BITS.get(tensor.dtype, quantization.bits) // quantization.bits
    return tensor.elements


def unpacked_shapes(tensors: Sequence[Tensor], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's matrices by module: `model.layers.0.self_attn.q_proj` → (out, in)."""
    quantization = quantization_of(config)
    found: dict[str, tuple[int, ...]] = {}
    for tensor in tensors:
        module, _, kind = tensor.name.rpartition(".")
        if kind == "weight":
            found[module] = tensor.shape
        elif kind == "weight_packed" and quantization is not None and len(tensor.shape) == 2:
            each = _WORD_BITS.get(tensor.dtype, quantization.bits) // quantization.bits
            found[module] = (tensor.shape[0], tensor.shape[1] * each)
    return found


def _context_length(config: dict[str, Any]) -> int:
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            for key in CONTEXT_KEYS:
                if type(part.get(key)) is int and part[key] > 0:
                    return int(part[key])
    raise UnsafeModel(f"config.json says no context length ({', '.join(CONTEXT_KEYS)}).", param=CONFIG)
