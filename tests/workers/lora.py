"""LoRA adapters of yard-tiny that change every answer, in PEFT's format; made without torch: it takes 4 s to import."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from services.catalog.tensors import parse_header

TINY = Path(__file__).parents[2] / "infra" / "models" / "yard-tiny"
WEIGHTS = TINY / "model.safetensors"


def adapter(folder: Path, *, seed: int = 1, rank: int = 4, **config: Any) -> Path:
    """Random matrices beside `q_proj` and `v_proj`."""
    generator, weights = np.random.default_rng(seed), dict[str, Any]()
    with WEIGHTS.open("rb") as file:
        tensors = parse_header(file, name=WEIGHTS.name, size=WEIGHTS.stat().st_size)
    for tensor in sorted(tensors, key=lambda each: each.name):
        if tensor.name.endswith(("q_proj.weight", "v_proj.weight")):
            rows, columns = tensor.shape
            module = f"base_model.model.{tensor.name.removesuffix('.weight')}"
            weights[f"{module}.lora_A.weight"] = np.float32(generator.standard_normal((rank, columns)) * 0.1)
            weights[f"{module}.lora_B.weight"] = np.float32(generator.standard_normal((rows, rank)))
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 16, "bias": "none"}
    told["target_modules"] = ["q_proj", "v_proj"]
    (folder / "adapter_config.json").write_text(json.dumps({**told, **config}))
    return folder
