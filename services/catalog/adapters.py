"""LoRA adapters in PEFT's format: which of them our engines serve, and whether one fits its base.

Names in the file are `base_model.model.{module}.lora_A.weight` (rank, in) and `….lora_B.weight` (out, rank)
(peft 0.21, `get_peft_model_state_dict`).
"""

from collections.abc import Mapping
from typing import Any

from services.catalog.safety import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from services.catalog.tensors import Tensor
from shared.contracts.tuning import LARGEST_RANK
from shared.errors import Unprocessable

PREFIX = "base_model.model."
#: features of PEFT that change more than two thin matrices, each with the values that leave it off
FEATURES: Mapping[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None,),
    "alpha_pattern": (None, {}),
    "arrow_config": (None,),
    "bias": (None, "none"),
    "corda_config": (None,),
    "fan_in_fan_out": (None, False),
    "kasa_config": (None,),
    "layer_replication": (None, []),
    "lora_bias": (None, False),
    "lora_ga_config": (None,),
    "megatron_config": (None,),
    "modules_to_save": (None, []),
    "monteclora_config": (None,),
    "rank_pattern": (None, {}),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "use_bdlora": (None, False),
    "use_dora": (None, False),
    "use_qalora": (None, False),
}
#: initialisations that change the base's own weights: without a conversion the adapter fits no untouched base
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class InvalidAdapter(Unprocessable):
    """The adapter cannot be served, or does not fit its base."""

    code = "invalid_adapter"


def check_config(config: Mapping[str, Any]) -> int:
    """The rank of an adapter that engines can serve.

    Raises:
        InvalidAdapter: it is no LoRA, its rank is out of range, or it uses a feature that engines lack.
    """
    if config.get("peft_type") != "LORA":
        raise _refused(f"peft_type is {str(config.get('peft_type'))[:40]!r}; only LORA is served")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
        raise _refused(f"r is not from 1 to {LARGEST_RANK}")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < 1e6:
        raise _refused("lora_alpha is no positive number")
    for name, neutral in FEATURES.items():
        if config.get(name) not in neutral:
            raise _refused(f"{name} is not supported by the engines")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise _refused(f"init_lora_weights {start[:40]!r} changes the base's weights: convert it to a plain LoRA first")
    return rank


def check_fit(tensors: list[Tensor], *, rank: int, base: Mapping[str, tuple[int, ...]]) -> None:
    """See that every pair of matrices belongs to a matrix of the base and has its sizes.

    Raises:
        InvalidAdapter: one does not; `param` is the file, the message names the tensor.
    """
    pairs: dict[str, set[str]] = {}
    for tensor in tensors:
        module, side = _parts(tensor)
        if tensor.shape != (expected := _expected(tensor, module, side, rank=rank, base=base)):
            raise _mismatch(tensor, f"has shape {list(tensor.shape)}, its base asks for {list(expected)}")
        pairs.setdefault(module, set()).add(side)
    for module, sides in pairs.items():
        if len(sides) != 2:
            raise InvalidAdapter(
                f"{ADAPTER_WEIGHTS}: {module[:120]} has lora_A or lora_B alone.", param=ADAPTER_WEIGHTS
            )


def _parts(tensor: Tensor) -> tuple[str, str]:
    """(module of the base, `A` or `B`) of a tensor's name."""
    for side in "AB":
        ending = f".lora_{side}.weight"
        if tensor.name.startswith(PREFIX) and tensor.name.endswith(ending):
            return tensor.name.removeprefix(PREFIX).removesuffix(ending), side
    raise _mismatch(tensor, f"is no {PREFIX}….lora_A.weight or ….lora_B.weight")


def _expected(
    tensor: Tensor, module: str, side: str, *, rank: int, base: Mapping[str, tuple[int, ...]]
) -> tuple[int, int]:
    shape = base.get(module)
    if shape is None or len(shape) != 2:
        raise _mismatch(tensor, f"the base has no matrix {module[:120]}.weight")
    return (rank, shape[1]) if side == "A" else (shape[0], rank)


def _mismatch(tensor: Tensor, why: str) -> InvalidAdapter:
    return InvalidAdapter(f"{ADAPTER_WEIGHTS}: tensor {tensor.name[:160]} {why}.", param=ADAPTER_WEIGHTS)


def _refused(why: str) -> InvalidAdapter:
    return InvalidAdapter(f"{ADAPTER_CONFIG}: {why}.", param=ADAPTER_CONFIG)
