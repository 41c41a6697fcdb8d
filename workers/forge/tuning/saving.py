"""Checkpoints and results on disk: all of a folder, or nothing of it."""

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from transformers import GenerationConfig

from workers.forge.running import lacks_space
from workers.forge.telling import Tell

PARTIAL: Final = ".partial-"
SHARD: Final = "5GB"  # transformers' own default before 5.0: many hosts read one file slowly
#: What a whole model takes from its base as it is: a saved tokenizer is not always the one that was read.
COPIED: Final = (
    "config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model",
    "*.tiktoken", "chat_template*", "generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
_DTYPES: Final = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


def sweep(out: Path) -> None:
    """Delete what a forge before this one did not finish."""
    for path in out.glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def new_name(step: int) -> str:
    """A name that no checkpoint has had: a worker may still read the one of the same step."""
    return f"checkpoint-{step}-{secrets.token_hex(3)}"


@contextmanager
def whole(final: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name once everything in it is on disk; if that fails it is deleted."""
    partial = final.parent / f"{PARTIAL}{final.name}"
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*sorted(partial.rglob("*")), partial):
            _sync(path)
        partial.rename(final)
        _sync(final.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def spared(tell: Tell, step: int) -> Iterator[None]:
    """Where the disk is too full for a checkpoint, the run goes on without it, and says so."""
    try:
        yield
    except Exception as error:
        if not lacks_space(error):
            raise
        tell.log(f"step {step}: no checkpoint, the disk is full; the one before it stays ({error})", "warning")


def base_dtype(folder: Path) -> torch.dtype:
    """What a checkpoint's weights are in: most of its numbers."""
    numbers: Counter[str] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                cut = file.get_slice(name)
                numbers[cut.get_dtype()] += int(torch.Size(cut.get_shape()).numel())
    word = max((each for each in numbers if each in _DTYPES), key=lambda each: numbers[each], default="F32")
    return _DTYPES[word]


def save_model(model: Any, folder: Path, *, base: Path, tensors: Mapping[str, Any] | None = None) -> None:
    """Write a whole model in its base's dtype, with the base's own configuration and tokenizer.

    `tensors`, by the names of the model's parameters, are written instead of the model's own.
    """
    dtype = base_dtype(base)
    given = tensors if tensors is not None else dict(model.named_parameters())
    cast = {name: each.detach().to(dtype) if each.is_floating_point() else each for name, each in given.items()}
    kept = model.state_dict().keys() & (buffers := dict(model.named_buffers())).keys()
    cast |= {name: buffers[name] for name in sorted(kept)}
    before, model.generation_config = model.generation_config, GenerationConfig()  # refused where settings contradict
    try:
        model.save_pretrained(folder, state_dict=cast, max_shard_size=SHARD)
    finally:
        model.generation_config = before
    (folder / "generation_config.json").unlink(missing_ok=True)
    for path in (path for pattern in COPIED for path in base.glob(pattern)):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
