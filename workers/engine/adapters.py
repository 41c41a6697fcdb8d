"""LoRA adapters: each is merged into a copy of the model that shares every tensor the adapter leaves alone.

Files are PEFT's: `adapter_config.json` and `adapter_model.safetensors`, whose keys are `base_model.model.` and a
module's name with `lora_A.weight` or `lora_B.weight`, or a whole tensor of a module that was trained in full.
"""

import asyncio
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.pytorch_utils import Conv1D

from shared.contracts.engine import LoadAdapter, UnloadAdapter
from workers.engine.errors import AdapterNotFound, InvalidAdapter
from workers.engine.log import log
from workers.engine.model import sharing
from workers.engine.state import Engine

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_POLL_S = 0.02
_PLAIN = (torch.float32, torch.float16, torch.bfloat16)

# To PEFT a regular expression. A stranger's may take for ever to match, and plain names are what people write.
_NameEnd = Annotated[str, Field(pattern=r"^[\w.]+$")]


class LoraConfig(BaseModel):
    """What of `adapter_config.json` decides how an adapter is merged. What it cannot be says so by its type."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    peft_type: Literal["LORA"]
    r: PositiveInt
    lora_alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    use_rslora: bool = False
    use_dora: Literal[False] = False
    rank_pattern: dict[_NameEnd, PositiveInt] = Field(default_factory=dict)
    alpha_pattern: dict[_NameEnd, float] = Field(default_factory=dict)

    def scale(self, module: str) -> float:
        """What B·A is multiplied by: alpha/r, or alpha/√r for rank-stabilised LoRA (arXiv 2312.03732)."""
        rank = _by_pattern(self.rank_pattern, module, self.r)
        return _by_pattern(self.alpha_pattern, module, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)


class Adapters:
    """Loads and unloads the adapters of one engine, one at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()

    async def load(self, asked: LoadAdapter) -> str:
        """Serve an adapter from now on; answers vLLM's words. Raises EngineError."""
        async with self._turn:
            base, config = self._engine.base, self._engine.config
            if config.tensor_parallel > 1:
                raise InvalidAdapter("This engine takes adapters with tensor_parallel 1 only.", param="lora_name")
            if asked.lora_name in self._engine.names:
                told = f"The lora adapter '{asked.lora_name}' has already been loaded."
                raise InvalidAdapter(told, param="lora_name")
            if len(self._engine.adapters) >= config.max_adapters:
                raise InvalidAdapter(f"This engine holds {config.max_adapters} adapters.", param="lora_name")
            try:
                network = await asyncio.to_thread(merged, base.model.network, Path(asked.lora_path))
            except torch.OutOfMemoryError:
                raise InvalidAdapter("There is no memory left for another adapter.", param="lora_path") from None
            self._engine.adapters[asked.lora_name] = self._engine.serve(base.model.beside(network, config))
            log("adapter_loaded", adapter=asked.lora_name)
        return f"Success: LoRA adapter '{asked.lora_name}' added successfully."

    async def unload(self, asked: UnloadAdapter) -> str:
        """Admit nothing more, let what runs end, and free the memory; answers vLLM's words. Raises AdapterNotFound."""
        served = self._engine.adapters.pop(asked.lora_name, None)
        if served is None:
            raise AdapterNotFound(f"The lora adapter '{asked.lora_name}' cannot be found.", param="lora_name")
        with self._engine.leaving(served):
            while served.in_flight:  # noqa: ASYNC110 - it ends in many places, and this is rare
                await asyncio.sleep(_POLL_S)
            await asyncio.to_thread(served.close)
        log("adapter_unloaded", adapter=asked.lora_name)
        return f"Success: LoRA adapter '{asked.lora_name}' removed successfully."


def merged(base: Any, folder: Path) -> Any:
    """A copy of `base` with the adapter in it. Raises AdapterNotFound, and InvalidAdapter naming file and field."""
    config = _read_config(folder / CONFIG)
    network = sharing(base)
    with torch.no_grad():
        for module, tensors in _read_weights(folder / WEIGHTS).items():
            _merge(network, module, tensors, config.scale(module))
    return network


def _read_config(path: Path) -> LoraConfig:
    try:
        return LoraConfig.model_validate(json.loads(path.read_bytes()))
    except OSError:
        raise AdapterNotFound(f"No adapter found: there is no {CONFIG} in {path.parent}.", param="lora_path") from None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, problem["loc"]))
        raise _bad(CONFIG, f"`{field}`: {problem['msg']}") from None
    except ValueError:
        raise _bad(CONFIG, "not JSON") from None


def _read_weights(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors by module and by what they are to it: `lora_A.weight`, `lora_B.weight`, `weight`, `bias`."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                module, part = _parts(key)
                found.setdefault(module, {})[part] = file.get_tensor(key)
    except OSError:
        raise _bad(WEIGHTS, "it is missing; safetensors is the only format that is read") from None
    except SafetensorError as error:
        raise _bad(WEIGHTS, str(error)) from None
    if not found:
        raise _bad(WEIGHTS, "it holds no tensors")
    return found


def _parts(key: str) -> tuple[str, str]:
    name = key.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
    match = re.fullmatch(r"(.+?)\.(lora_[AB]\.weight|weight|bias)", name)
    if name == key or match is None:
        raise _bad(WEIGHTS, f"`{key}` is no tensor of a LoRA adapter")
    return match[1], match[2]


def _merge(network: Any, name: str, tensors: Mapping[str, torch.Tensor], scale: float) -> None:
    try:
        module = network.get_submodule(name)
    except AttributeError:
        raise _bad(WEIGHTS, f"`{name}` is no module of the base model") from None
    down, up = tensors.get("lora_A.weight"), tensors.get("lora_B.weight")
    if (down is None) != (up is None):
        raise _bad(WEIGHTS, f"`{name}` has one half of a LoRA pair")
    for part in tensors.keys() & {"weight", "bias"}:
        _replace(module, name, part, tensors[part])
    if down is None or up is None:
        return
    weight = _own(module, name, "weight")
    if not isinstance(module, nn.Linear | Conv1D) or weight.dtype not in _PLAIN:
        raise _bad(WEIGHTS, f"`{name}` is a {type(module).__name__} of {weight.dtype}: not a layer to merge into")
    if down.ndim != 2 or up.ndim != 2 or up.size(1) != down.size(0):
        raise _bad(WEIGHTS, f"`{name}`: A {tuple(down.shape)} and B {tuple(up.shape)} do not fit each other")
    delta = (scale * (up.to(weight.device).float() @ down.to(weight.device).float())).to(torch.float32)
    if isinstance(module, Conv1D):  # GPT-2 keeps its weights the other way round
        delta = delta.T
    _replace(module, name, "weight", _fitting(name, weight, delta) + weight.float())


def _fitting(name: str, weight: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    if delta.shape != weight.shape:
        raise _bad(WEIGHTS, f"`{name}` is {tuple(weight.shape)} in the base model and {tuple(delta.shape)} here")
    return delta


def _replace(module: nn.Module, name: str, part: str, tensor: torch.Tensor) -> None:
    """Give a module a tensor of its own. The one that it shared stays as it is."""
    old = _own(module, name, part)
    new = _fitting(f"{name}.{part}", old, tensor).to(device=old.device, dtype=old.dtype)
    setattr(module, part, nn.Parameter(new, requires_grad=False))


def _own(module: nn.Module, name: str, part: str) -> torch.Tensor:
    found = getattr(module, part, None)
    if not isinstance(found, nn.Parameter):
        raise _bad(WEIGHTS, f"`{name}` has no {part} in the base model")
    return found


def _by_pattern(patterns: Mapping[str, float], module: str, default: float) -> float:
    return next((value for end, value in patterns.items() if f".{module}".endswith(f".{end}")), default)


def _bad(file: str, problem: str) -> InvalidAdapter:
    return InvalidAdapter(f"{file}: {problem}.", param="lora_path")
