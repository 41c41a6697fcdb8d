"""What a checkpoint's architecture costs, whatever its weights are kept in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workers.forge.checkpoints import unsupported

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k")


class Architecture(NamedTuple):
    """Parameters of an unpacked checkpoint, shared ones counted once, and floating-point operations of a token."""

    parameters: int
    flops_per_token: int


def architecture(folder: Path) -> Architecture:
    """Read `config.json` and count, on tensors without memory.

    FLOPs are two for each weight of a matrix that a token goes through in a forward pass at an empty cache: the LM head
    counts even where it is the embedding again; looking up an embedding is none. Of a mixture of experts those count
    that the configuration makes active.

    Raises:
        Refused: `unsupported_model`, when it is no causal language model.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # what the layers would be without it
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, ImportError) as error:
        raise unsupported(error) from error
    return Architecture(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops_per_token=2 * round(sum(_weights_of_matrices(model, config.get_text_config()))),
    )


def _weights_of_matrices(model: Any, config: Any) -> Iterator[float]:
    active = active_share(config)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding):
            continue
        share = active if "experts" in name.split(".") else 1.0
        for parameter in module.parameters(recurse=False):
            if parameter.ndim > 1:
                yield parameter.numel() * share


def active_share(config: Any) -> float:
    """The part of a mixture's experts that a token goes through; 1 where there are none."""
    experts, active = (_first(config, names) for names in (_EXPERTS, _ACTIVE))
    return min(1.0, active / experts) if experts and active else 1.0


def _first(config: Any, names: tuple[str, ...]) -> int | None:
    return next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)
