"""What may be in a model's folder: weights as safetensors, and text that no loader runs.

Loaders run code from pickles (`.bin`, `.pt` …), from Python files beside the weights, and from names in the
configuration (`auto_map`; kernels: CVE-2026-4372; template names used as paths: CVE-2026-9856). So the list
says what is allowed, and everything else is refused, whether or not today's loader would touch it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from services.catalog.tensors import Tensor, UnsafeModel, parse_header
from services.catalog.tree import Files, check_path

WEIGHTS = ".safetensors"
SINGLE, INDEX, ADAPTER_WEIGHTS = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
SUFFIXES = frozenset({WEIGHTS, ".json", ".jinja", ".txt", ".model", ".md"})
#: `recipe.yaml` says what llm-compressor did; no loader reads it
BARE = frozenset({"LICENSE", "LICENCE", "NOTICE", "USE_POLICY", "recipe.yaml"})
CONFIGS = frozenset(
    {
        CONFIG, ADAPTER_CONFIG, INDEX, "generation_config.json", "tokenizer_config.json", "processor_config.json",
        "preprocessor_config.json", "special_tokens_map.json",
    }
)  # fmt: skip
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
CONFIG_BYTES = 16 * 1024**2  # a tokenizer_config with a chat template is a few hundred KiB
TEMPLATE_BYTES = 256 * 1024  # the longest published chat templates have 20 KiB
FILES = 2000


@dataclass(frozen=True)
class Contents:
    """A folder that was looked through: its files, its configurations, the headers of its weights; by path."""

    files: Mapping[str, int]
    configs: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, tuple[Tensor, ...]]

    @property
    def adapter(self) -> bool:
        """Whether it is an adapter."""
        return ADAPTER_CONFIG in self.configs

    @property
    def all_tensors(self) -> list[Tensor]:
        """The tensors of all files."""
        return [tensor for tensors in self.tensors.values() for tensor in tensors]


def checked(tree: Files) -> Contents:
    """Look through a model's files: names, headers of weights, configurations. Weights themselves are not read.

    Raises:
        UnsafeModel: a file, a link, a header or a configuration is not allowed, or something is missing; `param`
        names the file.
    """
    files = tree.sizes()
    check_names(files)
    configs = {path: _read_config(tree, path, size) for path, size in files.items() if _name(path) in CONFIGS}
    tensors = {path: _read_header(tree, path, size) for path, size in files.items() if path.endswith(WEIGHTS)}
    found = Contents(files, configs, tensors)
    if found.adapter:
        _check_adapter_files(found)
    else:
        _check_model_files(found)
    return found


def check_names(files: Mapping[str, int]) -> None:
    """Judge files by their paths and sizes alone.

    Raises:
        UnsafeModel: one is not allowed, or there are no weights.
    """
    if len(files) > FILES:
        raise UnsafeModel(f"The folder holds more than {FILES} files.")
    for path, size in files.items():
        check_path(path)
        if not is_allowed(path):
            kinds = ", ".join(sorted(SUFFIXES))
            raise UnsafeModel(f"{path} is not allowed: weights are {WEIGHTS}, the rest is {kinds}.", param=path)
        if path.endswith(".jinja") and size > TEMPLATE_BYTES:
            raise UnsafeModel(f"{path}: a chat template has at most {TEMPLATE_BYTES} bytes.", param=path)
        if _name(path) in CONFIGS and size > CONFIG_BYTES:
            raise UnsafeModel(f"{path} is larger than {CONFIG_BYTES} bytes.", param=path)
    if not any(path.endswith(WEIGHTS) for path in files):
        raise UnsafeModel(f"The folder holds no {WEIGHTS} file.")


def is_allowed(path: str) -> bool:
    """Whether a file of this name may belong to a model."""
    return PurePosixPath(path).suffix in SUFFIXES or _name(path) in BARE


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _read_header(tree: Files, path: str, size: int) -> tuple[Tensor, ...]:
    with tree.open(path) as file:
        return parse_header(file, name=path, size=size)


def _read_config(tree: Files, path: str, size: int) -> dict[str, Any]:
    with tree.open(path) as file:
        text = file.read(size)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsafeModel(f"{path} is not JSON.", param=path) from error
    if not isinstance(config, dict):
        raise UnsafeModel(f"{path} is not a JSON object.", param=path)
    for key, value in _pairs(config):
        _check_pair(path, key, value)
    return config


def _check_pair(file: str, key: str, value: Any) -> None:
    if key in ("auto_map", "custom_pipelines", "trust_remote_code") and value:
        raise UnsafeModel(f"{file} asks for code of its own ({key}).", param=file)
    if "attn_implementation" in key and isinstance(value, str) and "/" in value:
        raise UnsafeModel(f"{file} asks for a kernel from elsewhere ({key}).", param=file)
    if key == "chat_template":
        _check_template(file, value)


def _check_template(file: str, value: Any) -> None:
    rows = value if isinstance(value, list) else []
    names = [row.get("name") if isinstance(row, dict) else row for row in rows]
    if not all(isinstance(name, str) and name.replace("_", "a").isalnum() for name in names):
        raise UnsafeModel(f"{file} names a chat template that is no plain word.", param=file)
    texts = [row.get("template") for row in rows if isinstance(row, dict)] if rows else [value]
    if any(isinstance(text, str) and len(text.encode(errors="replace")) > TEMPLATE_BYTES for text in texts):
        raise UnsafeModel(f"{file}: a chat template has at most {TEMPLATE_BYTES} bytes.", param=file)


def _check_model_files(found: Contents) -> None:
    if CONFIG not in found.configs:
        raise UnsafeModel(f"The folder holds no {CONFIG}.", param=CONFIG)
    if not any(name in found.files for name in TOKENIZERS):
        raise UnsafeModel(f"The folder holds no tokenizer ({', '.join(TOKENIZERS)}).", param=TOKENIZERS[0])
    if INDEX in found.configs:
        _check_index(found.configs[INDEX], found.tensors)
    elif set(found.tensors) != {SINGLE}:
        odd = min(set(found.tensors) - {SINGLE})
        raise UnsafeModel(f"{odd}: without {INDEX} all weights are in {SINGLE}.", param=odd)


def _check_index(index: Mapping[str, Any], tensors: Mapping[str, tuple[Tensor, ...]]) -> None:
    """Every tensor is where the index says, and the index knows every tensor."""
    listed = index.get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise UnsafeModel(f"{INDEX} has no weight_map.", param=INDEX)
    found = {tensor.name: file for file, rows in tensors.items() for tensor in rows}
    if sum(map(len, tensors.values())) != len(found):
        raise UnsafeModel(f"{INDEX}: a tensor is in two files.", param=INDEX)
    wrong = sorted(name for name in found.keys() | listed.keys() if found.get(name) != listed.get(name))
    if wrong:
        name = wrong[0]
        place, said = found.get(name, "no file"), listed.get(name, "nowhere")
        raise UnsafeModel(f"{INDEX}: tensor {name[:80]!r} is in {place}, the index says {said[:80]}.", param=INDEX)


def _check_adapter_files(found: Contents) -> None:
    if set(found.tensors) != {ADAPTER_WEIGHTS}:
        odd = min(set(found.tensors) ^ {ADAPTER_WEIGHTS})
        raise UnsafeModel(f"{odd}: an adapter's weights are in {ADAPTER_WEIGHTS} alone.", param=odd)


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
