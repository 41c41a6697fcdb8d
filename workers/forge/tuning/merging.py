"""An adapter is added to its base: PEFT's merge, of adapters in fp32, rounded once to the base's dtype."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from shared.contracts.tuning_orders import MODEL_FOLDER, MergeOrder, MergeResult
from workers.forge.checkpoints import (
    LOCAL,
    check_complete,
    check_finite,
    check_folder,
    quantized_by,
    read_config,
    sizes,
    unsupported,
)
from workers.forge.refusing import Refused
from workers.forge.telling import Tell
from workers.forge.tuning import adapting, saving
from workers.forge.tuning.trainer import Tuner


def merge(order: MergeOrder, out: Path, *, tell: Tell) -> MergeResult:
    """Write `out/model`, whole or not at all.

    Raises:
        Refused: `unsafe_model`, `unsupported_model`, `invalid_adapter`, `non_finite_weights`.
    """
    began = monotonic()
    saving.sweep(out)
    with saving.whole(out / MODEL_FOLDER) as folder:
        layers = merge_into(folder, base=order.model.folder, adapter=order.adapter.folder)
    made = sizes(out / MODEL_FOLDER).bytes
    tell.log(f"{order.adapter.name} is added to {layers} layers of {order.model.name}")
    return MergeResult(layers=layers, bytes=made, seconds=monotonic() - began)


def merge_trained(trainer: Tuner, folder: Path, *, weights: Mapping[str, Any]) -> int:
    """Write a model with the adapter that has been trained; the number of layers it changed."""
    order = trainer.run.order
    with tempfile.TemporaryDirectory(dir=trainer.run.out, prefix=saving.PARTIAL) as adapter:
        adapting.save(trainer.model, Path(adapter), base=order.model.name, tensors=weights)
        return merge_into(folder, base=order.model.folder, adapter=Path(adapter))


def merge_into(folder: Path, *, base: Path, adapter: Path) -> int:
    """Write a merged checkpoint, on the CPU; the number of layers that the adapter changed.

    Raises:
        Refused: see `merge`.
    """
    model = _base(base)
    check_folder(adapter)
    kind = json.loads((adapter / adapting.ADAPTER_CONFIG).read_bytes()).get("peft_type")
    if kind != "LORA":
        raise Refused("invalid_adapter", "Only LoRA adapters are merged", f"peft_type {kind}")
    try:
        adapted = PeftModel.from_pretrained(model, adapter, torch_device="cpu", **LOCAL)
    except (ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise Refused(
            "invalid_adapter", "The adapter does not fit its base", f"{type(error).__name__}: {error}"
        ) from error
    changed = list(adapting.layers(adapted))
    with torch.no_grad():
        merged = adapted.merge_and_unload()
    check_finite((name, module.weight) for name, module in merged.named_modules() if name in set(changed))
    saving.save_model(merged, folder, base=base)
    return len(changed)


def _base(folder: Path) -> Any:
    check_folder(folder)
    config = read_config(folder)
    if (how := quantized_by(folder)) is not None:
        raise Refused("unsupported_model", f"The base is quantized ({how}): nothing can be added to it")
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype="auto", use_safetensors=True, output_loading_info=True, **LOCAL
        )
    except SafetensorError as error:
        raise Refused("unsafe_model", "A safetensors file is broken", str(error)) from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise unsupported(error) from error
    check_complete(info)
    return model
