"""An adapter of PEFT's beside the layers of a base, and its two files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn

from shared.contracts.tuning import Lora, Method
from workers.forge.checkpoints import listed
from workers.forge.refusing import Refused

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"


def adapt(model: Any, lora: Lora, *, method: Method) -> Any:
    """PEFT's model around the base: only its adapter is trained, in fp32; DoRA's is, in a model in bf16, in bf16 too.

    (PEFT computes DoRA in the dtype of the adapter, and the optimizer has its own copy in fp32.)

    Raises:
        Refused: `pattern_matches_nothing`, `unsupported_layers` (of the layers to adapt: no matrix, or the head).
    """
    assert lora.alpha is not None
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        use_rslora=method is Method.RSLORA,
        use_dora=method is Method.DORA,
        bias="none",
    )
    wide = not (method is Method.DORA and model.dtype is torch.bfloat16)
    try:
        adapted = get_peft_model(model, config, autocast_adapter_dtype=wide)  # to fp32
    except ValueError as error:
        if "not found in the base model" in str(error):
            raise Refused("pattern_matches_nothing", "The base has no such layers", str(error)) from error
        raise Refused("unsupported_layers", "PEFT has no adapter for such layers", str(error)) from error
    _check(adapted)
    return adapted


def layers(model: Any) -> dict[str, Any]:
    """Every layer with an adapter, by its name in the base."""
    return {name: module for name, module in model.get_base_model().named_modules() if isinstance(module, LoraLayer)}


def save(model: Any, folder: Path, *, base: str, tensors: Mapping[str, Any] | None = None) -> None:
    """Write PEFT's two files. `base` is what the adapter's configuration calls its base.

    `tensors`, by the names of the model's parameters, are written instead of the model's own.
    """
    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": base, "inference_mode": True, "peft_type": "LORA", "revision": None}
    for name in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(config.get(name), set):
            config[name] = sorted(config[name])
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")
    found = get_peft_model_state_dict(model, state_dict=dict(tensors) if tensors else None, save_embedding_layers=False)
    save_file({name: each.contiguous() for name, each in found.items()}, folder / ADAPTER_WEIGHTS, {"format": "pt"})


def _check(model: Any) -> None:
    adapted = layers(model)
    head = model.get_base_model().get_output_embeddings()
    odd = [name for name, each in adapted.items() if not isinstance(each.get_base_layer(), nn.Linear) or each is head]
    if odd:
        raise Refused("unsupported_layers", "Adapters are trained of linear layers but the head", listed(odd))
