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
    """The figures of a model. `dtype` is the class table's word: bf16, fp16, fp32, fp8, fp8-kv, int8, int4, nvfp4."""

    config: dict[str, Any]
    parameters: int
    dtype: str
    context_length: int


@dataclass(frozen=True)
class Quantization:
    """How weights are stored."""

    bits: int
    floats: bool
    nested: bool = False  #: scales of groups have a scale of their own, as NVFP4's
    cache: bool = False  #: keys and values of the cache are kept in 8-bit floats too

    @property
    def dtype(self) -> str:
        """The class table's word."""
        word = f"{'fp' if self.floats else 'int'}{self.bits}"
        if word == "fp4" and self.nested:
            return "nvfp4"
        return "fp8-kv" if word == "fp8" and self.cache else word


@dataclass(frozen=True)
class Layout:
    """How the weights of each module are stored: those that are named so, the others as `main`."""

    main: Quantization
    named: Mapping[str, Quantization]

    def of(self, module: str) -> Quantization:
        """How one module's are."""
        return self.named.get(module, self.main)


def describe(contents: Contents) -> Description:
    """The figures of a model that stands alone.

    Raises:
        UnsafeModel: its configuration does not say how long a context it has.
    """
    config = dict(contents.configs[CONFIG])
    layout, tensors = layout_of(config), contents.all_tensors
    return Description(
        config=config,
        parameters=sum(_elements(tensor, layout) for tensor in tensors),
        dtype=layout.main.dtype if layout else dtype_of(tensors),
        context_length=_context_length(config),
    )


def layout_of(config: Mapping[str, Any]) -> Layout | None:
    """What `quantization_config` says of the weights (compressed-tensors, GPTQ, AWQ, fp8); None where there is none.

    compressed-tensors has groups of modules: a target is a module's name, or a class's (`Linear`), which stands for
    all that are not named. The group that names none is `main`, or the first.
    """
    told = config.get("quantization_config")
    if not isinstance(told, dict):
        return None
    groups = [found for group in _groups(told) if (found := _group(group, cache=_has_cache(told)))]
    if groups:
        main = next((found for targets, found in groups if "Linear" in targets), groups[0][1])
        return Layout(main, {name: found for targets, found in groups for name in targets})
    if told.get("quant_method") == "fp8":
        return Layout(Quantization(8, floats=True), {})
    return Layout(Quantization(told["bits"], floats=False), {}) if _positive(told.get("bits")) else None


def _groups(told: dict[str, Any]) -> list[Any]:
    groups = told.get("config_groups")
    return list(groups.values()) if isinstance(groups, dict) else []


def _group(group: Any, *, cache: bool) -> tuple[list[str], Quantization] | None:
    """(targets, how they are stored) of a group; None of one that leaves the weights alone."""
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict) or not _positive(weights.get("num_bits")):
        return None
    targets = group.get("targets")
    names = [name for name in targets if isinstance(name, str)] if isinstance(targets, list) else []
    nested = weights.get("strategy") == "tensor_group"
    return names, Quantization(weights["num_bits"], weights.get("type") == "float", nested=nested, cache=cache)


def _has_cache(told: dict[str, Any]) -> bool:
    cache = told.get("kv_cache_scheme")
    return isinstance(cache, dict) and cache.get("num_bits") == 8 and cache.get("type") == "float"


def _positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _elements(tensor: Tensor, layout: Layout | None) -> int:
    """Weights in a tensor: packed ones are counted, what only helps to unpack them is not."""
    if layout is None:
        return tensor.elements
    if _BESIDE.search(tensor.name):
        return 0
    if tensor.name.endswith(_PACKED):
        bits = layout.of(tensor.name.rpartition(".")[0]).bits
        return tensor.elements * _WORD_BITS.get(tensor.dtype, bits) // bits
    return tensor.elements


def unpacked_shapes(tensors: Sequence[Tensor], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's matrices by module: `model.layers.0.self_attn.q_proj` → (out, in)."""
    layout = layout_of(config)
    found: dict[str, tuple[int, ...]] = {}
    for tensor in tensors:
        module, _, kind = tensor.name.rpartition(".")
        if kind == "weight":
            found[module] = tensor.shape
        elif kind == "weight_packed" and layout is not None and len(tensor.shape) == 2:
            bits = layout.of(module).bits
            found[module] = (tensor.shape[0], tensor.shape[1] * (_WORD_BITS.get(tensor.dtype, bits) // bits))
    return found


def _context_length(config: dict[str, Any]) -> int:
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            for key in CONTEXT_KEYS:
                if type(part.get(key)) is int and part[key] > 0:
                    return int(part[key])
    raise UnsafeModel(f"config.json says no context length ({', '.join(CONTEXT_KEYS)}).", param=CONFIG)
