"""What may be in a model's folder: weights as safetensors, and text that no loader runs.

Loaders run code from pickles (`.bin`, `.pt` …), from Python files beside the weights, and from names in the
configuration (`auto_map`; kernels: CVE-2026-4372; template names used as paths: CVE-2026-9856). So the list
says what is allowed, and everything else is refused, whether or not today's loader would touch it.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.catalog.tensors import UnsafeModel, read_header

WEIGHTS = ".safetensors"
SUFFIXES = frozenset({WEIGHTS, ".json", ".jinja", ".txt", ".model", ".md"})
BARE = frozenset({"LICENSE", "LICENCE", "NOTICE", "USE_POLICY"})
IGNORED = frozenset({".gitattributes", ".gitignore"})
CONFIGS = frozenset(
    {
        "config.json", "generation_config.json", "tokenizer_config.json", "processor_config.json",
        "preprocessor_config.json", "special_tokens_map.json", "adapter_config.json",
    }
)  # fmt: skip
CONFIG_BYTES = 16 * 1024**2  # a tokenizer_config with a chat template is a few hundred KiB
FILES = 2000
DEPTH = 4


def checked_files(folder: Path) -> list[Path]:
    """Every file of a model's folder that belongs to it, each seen to be harmless.

    Raises:
        UnsafeModel: a file, a link, a weight header or a configuration value is not allowed, or there are no
        weights.
    """
    files = sorted(path for path in _walk(folder) if path.name not in IGNORED)
    if len(files) > FILES:
        raise UnsafeModel(f"The folder holds more than {FILES} files.")
    for path in files:
        _check_file(path, path.relative_to(folder))
    if not any(path.suffix == WEIGHTS for path in files):
        raise UnsafeModel(f"The folder holds no {WEIGHTS} file.")
    return files


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file's object; empty when there is no such file.

    Raises:
        UnsafeModel: it is too large, no JSON object, or asks for code.
    """
    if not path.exists():
        return {}
    if path.stat().st_size > CONFIG_BYTES:
        raise UnsafeModel(f"{path.name} is larger than {CONFIG_BYTES} bytes.")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnsafeModel(f"{path.name} is not JSON.") from error
    if not isinstance(config, dict):
        raise UnsafeModel(f"{path.name} is not a JSON object.")
    for key, value in _pairs(config):
        _check_pair(path.name, key, value)
    return config


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if name != ".git"]
        if len(here.relative_to(folder).parts) > DEPTH:
            raise UnsafeModel(f"Folders are nested deeper than {DEPTH}.")
        for name in (*folders, *names):
            if (here / name).is_symlink():
                raise UnsafeModel(f"{name} is a link.")
        yield from (here / name for name in names)


def _check_file(path: Path, shown: Path) -> None:
    if not path.is_file():
        raise UnsafeModel(f"{shown} is not a file.")
    if path.suffix not in SUFFIXES and path.name not in BARE:
        raise UnsafeModel(f"{shown} is not allowed: weights are {WEIGHTS}, the rest is {', '.join(sorted(SUFFIXES))}.")
    if path.suffix == WEIGHTS:
        read_header(path)
    elif path.name in CONFIGS:
        read_config(path)


def _check_pair(file: str, key: str, value: Any) -> None:
    if key in ("auto_map", "custom_pipelines", "trust_remote_code") and value:
        raise UnsafeModel(f"{file} asks for code of its own ({key}).")
    if "attn_implementation" in key and isinstance(value, str) and "/" in value:
        raise UnsafeModel(f"{file} asks for a kernel from elsewhere ({key}).")
    if key == "chat_template" and isinstance(value, list):
        names = [row.get("name") if isinstance(row, dict) else row for row in value]
        if not all(isinstance(name, str) and name.replace("_", "a").isalnum() for name in names):
            raise UnsafeModel(f"{file} names a chat template that is no plain word.")


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value, however deep."""
    rest = [value]
    while rest:
        found = rest.pop()
        if isinstance(found, dict):
            yield from found.items()
            rest.extend(found.values())
        elif isinstance(found, list):
            rest.extend(found)
