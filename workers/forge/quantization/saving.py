"""A quantized model becomes a checkpoint on disk: all of it, or nothing."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open
from transformers import GenerationConfig

from workers.forge.checkpoints import check_finite, listed
from workers.forge.quantization.layers import Plan
from workers.forge.refusing import Refused

CHECKPOINT: Final = "checkpoint"
PARTIAL: Final = ".checkpoint.partial"
RECIPE: Final = "recipe.yaml"
INDEX: Final = "model.safetensors.index.json"
SHARD: Final = "5GB"  # transformers' own default before 5.0: many hosts read one file slowly

#: What a checkpoint takes from its original as it is: a saved tokenizer is not always the one that was read.
COPIED: Final = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.tiktoken",
    "chat_template*", "generation_config.json", "processor_config.json", "preprocessor_config.json",
    "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip


def save(model: Any, folder: Path) -> None:
    """Write weights and configuration. Every rank calls it; rank 0 writes."""
    # transformers refuses to save settings of sampling that contradict each other; the original's file is copied
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder, max_shard_size=SHARD)


def finish(folder: Path, original: Path, *, plan: Plan | None, recipe: str | None) -> None:
    """Add what belongs to a checkpoint besides weights and configuration, and look through all of it.

    Raises:
        ValueError: it is not whole.
        Refused: `non_finite_weights`, when a scale is not finite; `unsupported_model`, when tensors are written under
            names that no loader would look for.
    """
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / RECIPE).unlink(missing_ok=True)  # llm-compressor's names our subclasses
    for pattern in COPIED:
        for path in original.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    if recipe is not None:
        (folder / RECIPE).write_text(recipe)
    names = _tensor_names(folder)
    if plan is not None:
        _check_quantized(folder, original, plan, names)


def check_experts(original: Path, plan: Plan) -> None:
    """See that experts have the names of the original's files, under which alone a loader finds them again.

    Raises:
        Refused: `unsupported_model`: Mixtral's `w1`, for one, would be written as `gate_proj`.
    """
    experts = [f"{name}.weight" for name in plan.quantized if ".experts." in name]
    lost = sorted(set(experts) - _tensor_names(original).keys()) if experts else []
    if lost:
        raise Refused("unsupported_model", "llm-compressor would write experts under other names", listed(lost))


def _check_quantized(folder: Path, original: Path, plan: Plan, names: dict[str, str]) -> None:
    config, before = (json.loads((path / "config.json").read_bytes()) for path in (folder, original))
    if "quantization_config" not in config:
        raise ValueError("config.json has no quantization_config")
    _check_names(names, _tensor_names(original), plan)
    tied = before.get("tie_word_embeddings")
    if config.get("tie_word_embeddings") != tied and not any(name.endswith("head") for name in plan.quantized):
        raise ValueError(f"tie_word_embeddings was {tied}")
    check_finite(_scales(folder, names))


def _check_names(names: Mapping[str, str], before: Mapping[str, str], plan: Plan) -> None:
    """Every tensor has its name again, weights of quantized layers with `_packed` or beside a scale."""
    lost = [name for name in before if name not in names and f"{name}_packed" not in names]
    if lost:
        raise Refused("unsupported_model", "llm-compressor writes this model's tensors under other names", listed(lost))
    scales = sum(name.endswith(".weight_scale") for name in names)
    if scales != len(plan.quantized):
        raise ValueError(f"{scales} layers have scales, {len(plan.quantized)} were quantized")


def publish(folder: Path, final: Path) -> None:
    """Give a finished folder its name, once everything in it is on disk."""
    for path in (*sorted(folder.iterdir()), folder):
        _sync(path)
    folder.rename(final)
    _sync(final.parent)


def _tensor_names(folder: Path) -> dict[str, str]:
    """Tensor → file. Raises ValueError when the index and the files differ."""
    names: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names |= dict.fromkeys(file.keys(), path.name)
    index = folder / INDEX
    if index.exists() and json.loads(index.read_bytes())["weight_map"] != names:
        raise ValueError("the index does not name the tensors that are there")
    if not names:
        raise ValueError("there are no tensors")
    return names


def _scales(folder: Path, names: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """What the quantization has made, besides weights."""
    for path in sorted(set(names.values())):
        with safe_open(folder / path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                if name.endswith("_scale"):
                    yield name, file.get_tensor(name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
