"""What a run goes on from: safetensors and JSON, by the names of parameters, whole whatever they are sharded over."""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from shared.contracts.forge import CHECKPOINT_FORMAT
from shared.contracts.tuning import Relief, Setting
from workers.forge.ranks import rank
from workers.forge.tuning.following import History, Totals
from workers.forge.tuning.optimizing import MASTER, MOMENTS, STEP, LocalAdamW, local

PLACE: Final = "place.json"
TRAINER: Final = "trainer_state.json"  #: transformers' own
RANDOM: Final = "random.safetensors"
TENSORS: Final = "tensors"  #: of files: weights and the optimizer's moments
BEST: Final = "best"  #: of files: weights of the lowest validation loss, where they are not these
FILE_BYTES: Final = 4 * 2**30  #: of one file of tensors, about
WEIGHT: Final = "weight"


class Place(BaseModel):
    """Where a run stands after a step; beside `trainer_state.json`, which is transformers' own."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = CHECKPOINT_FORMAT
    step: int
    data_sha256: str
    seed: int
    threads: int
    setting: Setting
    relief: Relief
    chosen: int  #: micro-batch before any relief
    learning_rates: list[float]  #: of the optimizer's groups
    scheduler: dict[str, Any]
    scaler: dict[str, Any] | None = None
    patience: int = 0  #: evaluations without an improvement
    stopped_early: bool = False
    best_step: int | None = None  #: of the lowest validation loss
    best_loss: float | None = None
    best_saved: float | None = None  #: lowest validation loss of a checkpoint
    totals: Totals
    history: History
    python: list[Any]  #: `random.getstate()`
    numpy: list[Any]  #: name, position, gauss, without the keys


def read_place(folder: Path) -> Place:
    """The place that a checkpoint's `state/` names."""
    return Place.model_validate_json((folder / PLACE).read_bytes())


# ------------------------------------------------------------------------------------------------- tensors
def whole(value: Any, like: Any) -> Any:
    """All of a parameter, or of a state of its shape, on every rank. Every rank calls it, in the same order."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(like, DTensor) and value.dim():
        sharded = DTensor.from_local(value, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
        return sharded.full_tensor()
    return value


def part(value: Any, like: Any) -> Any:
    """This rank's part of a tensor of a parameter's shape, on the parameter's device."""
    there = value.to(like.device)
    return local(distribute_tensor(there, like.device_mesh, like.placements) if isinstance(like, DTensor) else there)


def trained(model: Any) -> dict[str, Any]:
    """Parameters that are trained, by their names."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def tensors(model: Any, optimizer: LocalAdamW) -> Iterator[tuple[str, Any]]:
    """`{parameter}.weight` in fp32 and `.step`, `.exp_avg`, `.exp_avg_sq`, whole, on the CPU.

    Every rank goes through them all.
    """
    for name, parameter in trained(model).items():
        state = optimizer.state.get(parameter, {})  # nothing, where no step had a gradient of it
        yield f"{name}.{WEIGHT}", whole(state.get(MASTER, parameter.detach()), parameter).to("cpu", torch.float32)
        for kind in (STEP, *MOMENTS) if state else ():
            yield f"{name}.{kind}", whole(state[kind], parameter).to("cpu")


def restore_weights(model: Any, folder: Path) -> None:
    """Put a checkpoint's weights into the model, in the model's dtype."""
    found = _Files(folder, TENSORS)
    with torch.no_grad():
        for name, parameter in trained(model).items():
            local(parameter).copy_(part(found.get(f"{name}.{WEIGHT}"), parameter))


def restore_optimizer(model: Any, optimizer: LocalAdamW, folder: Path, place: Place) -> None:
    """Put a checkpoint's moments, and its weights in fp32, into the optimizer."""
    found = _Files(folder, TENSORS)
    for name, parameter in trained(model).items():
        if f"{name}.{STEP}" not in found:
            continue
        kinds = {moment: moment for moment in MOMENTS}
        if parameter.dtype != torch.float32:
            kinds[MASTER] = WEIGHT
        optimizer.state[parameter] = {STEP: found.get(f"{name}.{STEP}").to(local(parameter).device)} | {
            key: part(found.get(f"{name}.{kind}"), parameter) for key, kind in kinds.items()
        }
    for group, rate in zip(optimizer.param_groups, place.learning_rates, strict=True):
        group["lr"] = rate


def write(named: Iterator[tuple[str, Any]], folder: Path | None, stem: str) -> None:
    """Write tensors into files of about `FILE_BYTES`; a rank without a folder only takes part in gathering them."""
    batch: dict[str, Any] = {}
    files = held = 0
    for name, value in named:
        if folder is None:
            continue
        batch[name] = value.contiguous()
        held += value.nbytes
        if held >= FILE_BYTES:
            save_file(batch, folder / f"{stem}-{files:05d}.safetensors")
            batch, files, held = {}, files + 1, 0
    if folder is not None and batch:
        save_file(batch, folder / f"{stem}-{files:05d}.safetensors")


def read(folder: Path, stem: str) -> dict[str, Any]:
    """All tensors of the files of a name; none where there are no files."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob(f"{stem}-*.safetensors")):
        found |= load_file(path)
    return found


def weights(folder: Path) -> dict[str, Any]:
    """A checkpoint's weights, by the names of their parameters."""
    found = _Files(folder, TENSORS)
    return {name.removesuffix(f".{WEIGHT}"): found.get(name) for name in found if name.endswith(f".{WEIGHT}")}


class _Files:
    """Tensors of a folder, read one at a time."""

    def __init__(self, folder: Path, stem: str) -> None:
        opened: list[Any] = [safe_open(path, framework="pt") for path in sorted(folder.glob(f"{stem}-*.safetensors"))]
        self._where = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 - it is no dict

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def get(self, name: str) -> Any:
        return self._where[name].get_tensor(name)


# ------------------------------------------------------------------------------------------------- random numbers
def write_random(folder: Path) -> tuple[list[Any], list[Any]]:
    """Write the generators' states; Python's and NumPy's remainders are for `Place`."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - libraries draw from it
    version, internal, following = random.getstate()
    states = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys, dtype=np.uint32).copy())}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    save_file(states, folder / RANDOM)
    return [version, list(internal), following], [name, int(position), int(has_gauss), float(gauss)]


def restore_random(folder: Path, place: Place) -> None:
    """Put the generators where they were. They are rank 0's: others begin anew, by the seed and the step."""
    if rank():
        torch.manual_seed(place.seed + 7919 * place.step + rank())  # a prime: no two of few ranks and many steps meet
        return
    states = load_file(folder / RANDOM)
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    name, position, has_gauss, gauss = place.numpy
    np.random.set_state((name, states["numpy"].numpy(), position, has_gauss, gauss))  # noqa: NPY002 - see above
    version, internal, following = place.python
    random.setstate((version, tuple(internal), following))


def on_cpu(named: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of parameters, whole, on the CPU of rank 0; nothing on the others. Every rank calls it."""
    gathered = ((name, whole(each.detach(), each)) for name, each in named.items())
    return {name: each.to("cpu", copy=True) for name, each in gathered if rank() == 0}
