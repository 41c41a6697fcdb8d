"""How a run is cut to fit its device, once the model is there; the formulas are `shared.contracts.tuning_memory`'s."""

import math
from dataclasses import dataclass
from typing import Any, Final

import psutil
import torch

from shared.contracts.tuning import Setting, Training
from shared.contracts.tuning_memory import BATCH, Fit, Room, Shape, fit, relieved
from workers.forge.ranks import world_size
from workers.forge.refusing import Refused
from workers.forge.tuning.loading import Device
from workers.forge.tuning.runs import Material
from workers.forge.tuning.state import Place

KEPT: Final = 0.92  #: share of the free memory that a step may take: kernels' workspaces, fragments
ROWS_A_BATCH: Final = 8  #: `auto` makes at least so many batches of an epoch


@dataclass(frozen=True)
class Decision:
    """How a run trains."""

    shape: Shape
    steps: int  #: optimizer steps to the end
    chosen: int  #: micro-batch before any relief
    setting: Setting


def shape(model: Any) -> Shape:
    """A model that is ready to be trained, in figures."""
    config = model.config.get_text_config()
    experts = getattr(config, "num_experts_per_tok", None) or 1
    width = getattr(config, "moe_intermediate_size", None) or getattr(
        config, "intermediate_size", 4 * config.hidden_size
    )
    return Shape(
        parameters=sum(each.numel() for each in model.parameters()),
        trainable=sum(each.numel() for each in model.parameters() if each.requires_grad),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=width * experts,
        vocabulary=config.vocab_size,
    )


def decide(given: Material, model: Any, *, place: Place | None) -> Decision:
    """How a run trains, where the model is there: what the estimate says is quickest of what fits, then the relief.

    A resumed run goes on as it began, as long as its devices are the same: another cut of a batch makes other sums.

    Raises:
        Refused: `invalid_training`.
    """
    training, on, devices = given.order.training, given.on, world_size()
    _check(training, on)
    of, rows = shape(model), len(given.data.train)
    size = place.setting.batch_size if place else _batch_size(training, rows=rows, devices=devices)
    training = _as_before(training, place, on=on, devices=devices)
    micro = training.micro_batch_size
    if size % devices or (isinstance(micro, int) and size // devices % micro):
        title = f"Micro-batches of {micro} on {devices} devices do not divide a batch of {size}"
        raise Refused("invalid_training", title)
    steps = training.steps or math.ceil(training.epochs * math.ceil(rows / size))
    found = fit(
        of,
        training,
        batch_size=size,
        length=given.data.max_length,
        room=Room(bytes=_room(given, devices), devices=devices, gpu=on.gpu, width=on.width),
        steps=steps,
        dropout=bool(given.order.lora and given.order.lora.dropout),
    )
    eased = relieved(found, given.order.relief, shape=of)
    return Decision(of, steps, found.micro_batch_size, _setting(eased, given, attention=attention_of(model)))


def attention_of(model: Any) -> str:
    """transformers' word for what the model was loaded with."""
    return str(model.config._attn_implementation)  # noqa: SLF001 - there is no other name for it


def _batch_size(training: Training, *, rows: int, devices: int) -> int:
    """Rows of an optimizer step: as asked, else 16, fewer where that would make hardly a step of an epoch."""
    asked, micro = training.batch_size, training.micro_batch_size
    if isinstance(asked, int):
        return asked
    size = BATCH
    while size > devices and rows < size * ROWS_A_BATCH:
        size //= 2
    if isinstance(micro, int):
        return -(-size // (micro * devices)) * micro * devices
    return size


def _check(training: Training, on: Device) -> None:
    asked = {"compile": training.compile, "activation_offloading": training.activation_offloading}
    if not on.gpu and (gpus := [name for name, choice in asked.items() if choice is True]):
        raise Refused("invalid_training", f"{' and '.join(gpus)} need a GPU")


def _as_before(training: Training, place: Place | None, *, on: Device, devices: int) -> Training:
    if place is None or (place.setting.devices, place.setting.precision) != (devices, on.precision):
        return training
    was, relief = place.setting, place.relief
    return training.model_copy(
        update={
            "micro_batch_size": place.chosen,
            "compile": was.compiled,
            "gradient_checkpointing": was.gradient_checkpointing and not relief.gradient_checkpointing,
            "activation_offloading": was.activation_offloading and not relief.activation_offloading,
        }
    )


def _setting(found: Fit, given: Material, *, attention: str) -> Setting:
    load, packing = found.load, given.order.training.packing
    return Setting(
        devices=load.devices,
        batch_size=found.micro_batch_size * found.accumulation * load.devices,
        micro_batch_size=found.micro_batch_size,
        accumulation=found.accumulation,
        max_length=given.data.max_length,
        precision=given.on.precision,
        gradient_checkpointing=load.checkpointing,
        compiled=load.compiled and not load.offloading,  # hooks on what is saved break a compiled layer's graph
        activation_offloading=load.offloading,
        attention=attention,
        packing=packing,
    )


def _room(given: Material, devices: int) -> int:
    """Bytes of this device that the run may fill, with what the model has taken of it already."""
    if given.on.gpu:
        free, _ = torch.cuda.mem_get_info()
        there = free + torch.cuda.memory_reserved()
    else:
        there = psutil.virtual_memory().available // devices + psutil.Process().memory_info().rss
    told = given.order.memory_bytes
    return int(KEPT * (there if told is None else min(there, told)))
