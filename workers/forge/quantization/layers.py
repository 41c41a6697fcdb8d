"""Which linear layers of a model get which scheme, and whether they can have it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shared.contracts.compression import GROUP_SIZE, SCHEMES, Scheme
from shared.contracts.forge_orders import QuantizeOrder
from workers.forge.checkpoints import linear_layers, listed
from workers.forge.refusing import Refused

HEAD = "lm_head"  #: stands for the output layer, whatever a model calls it

#: Layers that engines run as one: they load a checkpoint only when all of a row are quantized alike
#: (vLLM, model_executor/models/*.py, packed_modules_mapping).
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
#: What chooses a token's experts: small, and a wrong choice costs more than all the rest (llm-compressor's examples).
ROUTERS = re.compile(r"(.*\.)?(mlp|block_sparse_moe|feed_forward)\.(gate|router)$|(.*\.)?shared_expert_gate$")


#: What transformers 5.17 cannot read in experts (integrations/compressed_tensors.py, DecompressExperts).
_NOT_FOR_EXPERTS = {Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.NVFP4}


@dataclass(frozen=True, slots=True)
class Setting:
    """A scheme with its group size; None: a scale for each row, or for a whole tensor."""

    scheme: Scheme
    group_size: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of every linear layer."""

    quantized: Mapping[str, Setting]  #: name → what it gets
    kept: tuple[str, ...]  #: names of those that stay as they are
    widened: tuple[str, ...] = ()  #: names that follow another layer, because engines run both as one

    def by_setting(self) -> dict[Setting, list[str]]:
        """Names by what they get, those of the most layers first."""
        groups: dict[Setting, list[str]] = {}
        for name, setting in self.quantized.items():
            groups.setdefault(setting, []).append(name)
        return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def plan(order: QuantizeOrder, model: Any) -> Plan:
    """What an order asks of a model's linear layers.

    Raises:
        Refused: `pattern_matches_nothing`; `group_size_does_not_divide`, with the layers' names and columns;
            `unsupported_model`, when nothing is left to quantize, or experts or the model's floats cannot have it.
    """
    layers = linear_layers(model)
    head = _output_layer(model, layers)
    main = setting_of(order.scheme, order.group_size)
    wanted: dict[str, Setting | None] = dict.fromkeys(layers, main)
    for override in reversed(order.overrides):  # the first that names a layer has it
        setting = setting_of(Scheme(override.scheme), override.group_size)
        wanted |= dict.fromkeys(_matched(override.layers, layers, head), setting)
    wanted |= dict.fromkeys(_matched(order.ignore, layers, head))
    wanted |= {name: None for name in layers if ROUTERS.match(name)}
    widened = _widen(wanted)
    quantized = {name: setting for name, setting in wanted.items() if setting is not None}
    if not quantized:
        raise Refused("unsupported_model", "No linear layer is left to quantize", f"of {len(layers)}")
    _check_columns(quantized, layers)
    _check_experts(quantized)
    _check_floats(order.scheme, model)
    return Plan(quantized, tuple(name for name in layers if name not in quantized), widened)


def setting_of(scheme: Scheme, group_size: int | None) -> Setting:
    """A scheme with the group size that it has, asked for or its own."""
    own = SCHEMES[scheme].group_size
    return Setting(scheme, group_size or own if own == GROUP_SIZE else own)


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a module: its name, its end after a dot, or `re:` and what its beginning matches."""
    if pattern.startswith("re:"):
        return re.match(pattern.removeprefix("re:"), name) is not None
    return name == pattern or name.endswith(f".{pattern}")


def _matched(patterns: Sequence[str], layers: Iterable[str], head: str | None) -> list[str]:
    found: dict[str, list[str]] = {pattern: _names(pattern, layers, head) for pattern in patterns}
    empty = [pattern for pattern, names in found.items() if not names and pattern != HEAD]
    if empty:
        raise Refused("pattern_matches_nothing", "A pattern matches no linear layer", listed(empty))
    return [name for names in found.values() for name in names]


def _names(pattern: str, layers: Iterable[str], head: str | None) -> list[str]:
    try:
        names = [name for name in layers if matches(pattern, name)]
    except re.error as error:
        raise Refused("pattern_matches_nothing", "A pattern is no regular expression", f"{pattern}: {error}") from error
    return names or ([head] if pattern == HEAD and head is not None else [])


def _output_layer(model: Any, layers: Mapping[str, Any]) -> str | None:
    output = model.get_output_embeddings()
    return next((name for name, layer in layers.items() if layer is output), None)


def _widen(wanted: dict[str, "Setting | None"]) -> tuple[str, ...]:
    """Give layers that engines fuse one setting: the widest of them. Changes `wanted`; the names that it changed."""
    widened = []
    for name in wanted:
        for row in FUSED:
            stem, _, last = name.rpartition(".")
            if last != row[0]:
                continue
            together = [f"{stem}.{part}" if stem else part for part in row]
            together = [part for part in together if part in wanted]
            if len({wanted[part] for part in together}) > 1:
                widest = max((wanted[part] for part in together), key=_width)
                widened += [part for part in together if wanted[part] != widest]
                wanted |= dict.fromkeys(together, widest)
    return tuple(widened)


def _width(setting: Setting | None) -> tuple[int, int]:
    if setting is None:
        return (16, 0)
    return (SCHEMES[setting.scheme].bits, -(setting.group_size or 0))


def _check_columns(quantized: Mapping[str, Setting], layers: Mapping[str, Any]) -> None:
    bad = [
        f"{name} ({layers[name].in_features} columns, groups of {setting.group_size})"
        for name, setting in quantized.items()
        if setting.group_size and layers[name].in_features % setting.group_size
    ]
    if bad:
        raise Refused(
            "group_size_does_not_divide", "The group size does not divide the columns of a layer", listed(bad)
        )


def _check_experts(quantized: Mapping[str, Setting]) -> None:
    schemes = {setting.scheme for name, setting in quantized.items() if ".experts." in name} & _NOT_FOR_EXPERTS
    if schemes:
        raise Refused(
            "unsupported_model",
            "Experts of a mixture cannot be kept in this scheme: use w4a16, w8a16 or fp8-dynamic",
            ", ".join(sorted(schemes)),
        )


def _check_floats(scheme: Scheme, model: Any) -> None:
    if scheme is Scheme.NVFP4 and model.dtype is not torch.bfloat16:
        # compressed-tensors 0.19 unpacks it to bf16, whatever the rest of the model is
        raise Refused("unsupported_model", "nvfp4 needs a model in bf16: make one by scheme bf16", f"{model.dtype}")
