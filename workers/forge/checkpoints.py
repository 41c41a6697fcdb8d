"""A checkpoint on disk becomes a model in memory, or the reason why it does not."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from shared.contracts.forge_orders import Subject
from workers.forge.refusing import Refused
from workers.forge.telling import Tell

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npz", ".npy", ".h5", ".msgpack"})
NAMED = 20  # names in an error's detail; the rest is a number
_CONFIGURATIONS = ("config.json", "tokenizer_config.json", "processor_config.json", "generation_config.json")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready for inference, and its tokenizer."""

    model: Any  #: transformers' model, in the checkpoint's dtype, without gradients
    tokenizer: Any
    device: torch.device  #: where its inputs belong
    load_s: float


class Sizes(NamedTuple):
    """Bytes of a checkpoint's files."""

    bytes: int  #: of all
    weight_bytes: int  #: of those that hold tensors


def load(subject: Subject, *, tell: Tell) -> Loaded:
    """Read a checkpoint: safetensors alone, never code; onto a GPU where there is one, onto all where one is too small.

    Quantized weights (compressed-tensors) are unpacked, and quantized activations computed as the checkpoint says.

    Raises:
        Refused: `unsafe_model` (pickles, code, a broken file), `unsupported_model` (nothing that transformers runs,
            or tensors are missing), `non_finite_weights` (with the tensors' names).
    """
    started = monotonic()
    check_folder(subject.folder)
    config = read_config(subject.folder)
    model = _network(subject.folder, config)
    check_finite(model.named_parameters())
    loaded = Loaded(
        model=model.eval().requires_grad_(requires_grad=False),
        tokenizer=load_tokenizer(subject.folder),
        device=model.get_input_embeddings().weight.device,
        load_s=monotonic() - started,
    )
    tell.log(f"{subject.name}: loaded in {loaded.load_s:.1f} s to {loaded.device}, {model.dtype}")
    return loaded


def check_folder(folder: Path) -> None:
    """Look through a checkpoint's files before any library does.

    Raises:
        Refused: `unsafe_model`: there are pickles or code, a configuration asks for code, or there are no safetensors.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    unsafe = sorted(str(path.relative_to(folder)) for path in files if path.suffix in PICKLES | {".py"})
    if unsafe:
        raise Refused("unsafe_model", "The model holds pickles or code, which are not loaded", listed(unsafe))
    for name in _CONFIGURATIONS:
        path = folder / name
        if path.exists() and b'"auto_map"' in path.read_bytes():
            raise Refused("unsafe_model", "The model asks for code of its own, which is not run", f"auto_map in {name}")
    if not any(path.suffix == ".safetensors" for path in files):
        raise Refused("unsafe_model", "The model has no safetensors")


def read_config(folder: Path) -> Any:
    """transformers' configuration of a checkpoint.

    Raises:
        Refused: `unsupported_model`.
    """
    try:
        return AutoConfig.from_pretrained(folder, **LOCAL)
    except (OSError, ValueError, KeyError) as error:
        raise unsupported(error) from error


def load_tokenizer(folder: Path) -> Any:
    """A checkpoint's tokenizer.

    Raises:
        Refused: `unsupported_model`.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, **LOCAL)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unsupported(error) from error


def unsupported(error: Exception) -> Refused:
    """What is said of a model that a library does not take, in its own words."""
    return Refused("unsupported_model", "The model cannot be used here", f"{type(error).__name__}: {error}")


def check_finite(tensors: Iterator[tuple[str, Any]]) -> None:
    """Look for tensors with infinities or NaN.

    Raises:
        Refused: `non_finite_weights`, with their names.
    """
    bad = [name for name, tensor in tensors if not _is_finite(tensor)]
    if bad:
        raise Refused("non_finite_weights", "The model's weights are not finite", listed(bad))


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """Every linear layer by its name, in the model's order; each once where two names share one."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def sizes(folder: Path) -> Sizes:
    """Bytes of a checkpoint's files."""
    files = [(path, path.stat().st_size) for path in folder.rglob("*") if path.is_file()]
    return Sizes(
        bytes=sum(size for _, size in files),
        weight_bytes=sum(size for path, size in files if path.suffix == ".safetensors"),
    )


def quantized_by(folder: Path) -> str | None:
    """The method that a checkpoint says it is quantized by; None: it is not."""
    config = json.loads((folder / "config.json").read_bytes())
    how = config.get("quantization_config") or config.get("text_config", {}).get("quantization_config")
    return str(how.get("quant_method", "unknown")) if how else None


def listed(names: list[str]) -> str:
    """Names for an error's detail: the first of them, and how many there are besides."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _network(folder: Path, config: Any) -> Any:
    options: dict[str, Any] = {"device_map": _device_map(folder)} if torch.cuda.is_available() else {}
    if getattr(config, "quantization_config", None):
        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # the checkpoint says how it is quantized
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype="auto", use_safetensors=True, output_loading_info=True, **LOCAL, **options
            )
    except SafetensorError as error:
        raise Refused("unsafe_model", "A safetensors file is broken", str(error)) from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise unsupported(error) from error
    check_complete(info)
    return model


def check_complete(info: Any) -> None:
    """Look at transformers' account of a load: what the files lack was filled with random numbers.

    Raises:
        Refused: `unsupported_model`, with the tensors' names.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        raise Refused("unsupported_model", "The checkpoint lacks tensors of the model", listed(missing))


def _device_map(folder: Path) -> Any:
    """One GPU where weights and a quarter of room beside them fit, else all of them."""
    free, _ = torch.cuda.mem_get_info()
    return {"": torch.cuda.current_device()} if sizes(folder).weight_bytes * 1.25 < free else "auto"


def _is_finite(tensor: Any) -> bool:
    if not tensor.is_floating_point():
        return True
    wide = tensor if tensor.element_size() > 1 else tensor.to(torch.bfloat16)  # 8-bit floats have no arithmetic
    if torch.isfinite(wide.sum(dtype=torch.float32)):  # one pass, no copy: a sum keeps what is not finite
        return True
    return bool(torch.isfinite(wide).all())  # finite numbers can have an infinite sum
