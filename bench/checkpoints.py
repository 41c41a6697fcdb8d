"""A checkpoint of a shape with random weights, and calibration samples of random tokens, written quickly.

`python -m bench.checkpoints FOLDER --shape 8b --samples 128 --sequence-length 2048` runs in a process of its own, so
that the memory it takes on a GPU is nobody else's. A folder that is complete is left as it is.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from bench.shapes import SHAPE, TINY
from shared.contracts.forge_orders import SAMPLES_FILE, SampleFacts

SHARD_BYTES = 4 << 30
WORDS = 4096  # token ids of the samples lie below: yard-tiny's tokenizer knows no more
TOKENIZER = Path(__file__).parents[1] / "infra" / "models" / "yard-tiny"
MODEL, SAMPLES = "model", "calibration"


def main() -> None:
    """Write what is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.checkpoints", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=("8b", "tiny"), default="8b")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--sequence-length", type=int, default=2048)
    asked = parser.parse_args()
    begun = time.perf_counter()
    if not (asked.folder / MODEL / "config.json").exists():
        _checkpoint(asked.folder / MODEL, SHAPE | (TINY if asked.shape == "tiny" else {}))
    if not (asked.folder / SAMPLES / SAMPLES_FILE).exists():
        _samples(asked.folder / SAMPLES, samples=asked.samples, length=asked.sequence_length)
    print(f"checkpoint and samples are there after {time.perf_counter() - begun:.1f} s", flush=True)


def tensors(shape: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama's tensors (transformers, modeling_llama.py)."""
    width, inner, words = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    queries = shape["num_attention_heads"] * shape["head_dim"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    yield "model.embed_tokens.weight", (words, width)
    for number in range(shape["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        for name, rows, columns in (
            ("q", queries, width),
            ("k", keys, width),
            ("v", keys, width),
            ("o", width, queries),
        ):
            yield f"{layer}.self_attn.{name}_proj.weight", (rows, columns)
        for name, rows, columns in (("gate", inner, width), ("up", inner, width), ("down", width, inner)):
            yield f"{layer}.mlp.{name}_proj.weight", (rows, columns)
        yield f"{layer}.input_layernorm.weight", (width,)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (words, width)


def _checkpoint(folder: Path, shape: dict[str, Any]) -> None:
    import torch  # noqa: PLC0415  # seconds, and other processes import this module for its names
    from safetensors.torch import save_file  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    shards = list(_shards(shape))
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weights = {}
        for name, size in names.items():
            tensor = torch.ones(size, dtype=torch.bfloat16, device=device)
            weights[name] = (tensor if len(size) == 1 else tensor.normal_(std=0.02)).cpu()
        save_file(weights, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
        print(f"written: {file}", flush=True)
    total = sum(_bytes(size) for names in shards for size in names.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in TOKENIZER.iterdir():
        if path.suffix != ".safetensors" and path.name not in {"config.json", "README.md"}:
            shutil.copy(path, folder)
    (folder / "config.json").write_text(json.dumps(shape))  # last: it says that the rest is there


def _shards(shape: dict[str, Any]) -> Iterator[dict[str, tuple[int, ...]]]:
    names: dict[str, tuple[int, ...]] = {}
    held = 0
    for name, size in tensors(shape):
        if held and held + _bytes(size) > SHARD_BYTES:
            yield names
            names, held = {}, 0
        names[name] = size
        held += _bytes(size)
    yield names


def _bytes(size: tuple[int, ...]) -> int:
    count = 2  # bytes of a bfloat16
    for length in size:
        count *= length
    return count


def _samples(folder: Path, *, samples: int, length: int) -> None:
    import numpy as np  # noqa: PLC0415

    from workers.forge.data.samples import Samples  # noqa: PLC0415

    ids_NL = np.random.default_rng(0).integers(8, WORDS, size=(samples, length), dtype=np.int32)  # noqa: N806
    digest = sha256(ids_NL.astype("<i4").tobytes()).hexdigest()
    facts = SampleFacts(samples=samples, sequence_length=length, tokens=samples * length, texts=samples, sha256=digest)
    folder.mkdir(parents=True, exist_ok=True)
    Samples(ids_NL, np.ones_like(ids_NL, dtype=np.uint8), facts).save(folder)


if __name__ == "__main__":
    main()
