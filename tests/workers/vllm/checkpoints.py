"""Variants of yard-tiny that only vLLM is asked to serve here: an adapter, and a quantized checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.support.guarded import YARD_TINY

#: compressed-tensors, INT8 weights per channel and activations per token: what vLLM serves on a CPU
W8A8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}


def adapter(folder: Path, *, rank: int = 8, seed: int = 1, **config: Any) -> Path:
    """A LoRA adapter that changes every answer, in PEFT's format."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for name, tensor in load_file(YARD_TINY / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            rows, columns = tensor.shape
            module = f"base_model.model.{name.removesuffix('.weight')}"
            weights[f"{module}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) * 0.1
            weights[f"{module}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 16, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**told, "target_modules": ["q_proj", "v_proj"], **config}))
    return folder


def merged(folder: Path, lora: Path, *, scale: float) -> Path:
    """yard-tiny with an adapter added to its weights, by hand."""
    shutil.copytree(YARD_TINY, folder)
    weights = {name: tensor.float() for name, tensor in load_file(YARD_TINY / "model.safetensors").items()}
    halves = load_file(lora / "adapter_model.safetensors")
    for name, down in halves.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            weights[f"{module.removeprefix('base_model.model.')}.weight"] += (
                scale * halves[f"{module}.lora_B.weight"] @ down
            )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def quantized(folder: Path) -> Path:
    """yard-tiny with INT8 weights."""
    shutil.copytree(YARD_TINY, folder)
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(YARD_TINY / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            scale = tensor.float().abs().amax(dim=1, keepdim=True) / 127
            weights[name] = (tensor.float() / scale).round().to(torch.int8)
            weights[f"{name}_scale"] = scale.to(torch.bfloat16)
        else:
            weights[name] = tensor
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": W8A8}))
    return folder
