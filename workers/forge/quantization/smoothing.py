"""Where SmoothQuant may work: norms whose output goes into linear layers and nowhere else.

llm-compressor (0.14) finds them by architecture, takes Llama's where it knows none, and has Llama's for Gemma 2 and 3,
whose MLP reads another norm: what was to leave the model as it is changes it. Here a forward pass without numbers shows
who reads what.
"""

import warnings
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from workers.forge.checkpoints import LOCAL
from workers.forge.refusing import Refused

TOKENS: Final = 8

# B sequences, H heads, T tokens

Mapping = tuple[list[str], str]


def mappings(folder: Path) -> list[Mapping]:
    """SmoothQuant's mappings: names of the layers that share an input, and of the norm that it comes from.

    A norm counts when it has one weight for each channel and nothing but linear layers takes what it gives.

    Raises:
        Refused: `unsupported_model`, when the pass fails or finds no such norm.
    """
    config = AutoConfig.from_pretrained(folder, **LOCAL)
    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            model = AutoModelForCausalLM.from_config(config)
            found = _followed(model)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise _unknown(f"{type(error).__name__}: {error}") from error
    if not found:
        raise _unknown("no norm feeds linear layers alone")
    return found


def _unknown(detail: str) -> Refused:
    return Refused(
        "unsupported_model",
        "SmoothQuant does not know this architecture: use smoothing_strength 0, or another scheme",
        detail,
    )


def _followed(model: Any) -> list[Mapping]:
    """Run a pass on the meta device and see which norm's output each module was called with."""
    norms: dict[int, str] = {}
    kept: list[Any] = []  # so that no id is used twice
    readers: dict[str, list[tuple[str, nn.Module]]] = {}

    def left(name: str, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            kept.append(output)
            norms[id(output)] = name
            readers[name] = []

    def entered(name: str, module: nn.Module, given: tuple[Any, ...]) -> None:
        for norm in {norms[id(value)] for value in given if id(value) in norms}:
            readers[norm].append((name, module))

    for name, module in model.named_modules():
        if any(True for _ in module.children()):
            continue
        module.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: entered(name, module, (*args, *kwargs.values())), with_kwargs=True
        )
        if _is_norm(module):
            module.register_forward_hook(lambda _module, _args, output, name=name: left(name, output))
    # A mask of all four dimensions, because to make one transformers looks at numbers.
    mask_BHTT = torch.zeros(1, 1, TOKENS, TOKENS, dtype=model.dtype)
    model(torch.zeros(1, TOKENS, dtype=torch.long), attention_mask=mask_BHTT, use_cache=False)
    head = model.get_output_embeddings()
    return [
        ([name for name, _ in taking], norm)
        for norm, taking in readers.items()
        if taking and all(isinstance(module, nn.Linear) and module is not head for _, module in taking)
    ]


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return "Norm" in type(module).__name__ and isinstance(weight, nn.Parameter) and weight.ndim == 1
