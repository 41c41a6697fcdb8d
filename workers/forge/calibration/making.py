"""A calibration from its order to the folder of its artifact."""

import json
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from shared.contracts.compression import Scheme
from shared.contracts.forge_orders import (
    FACTS_FILE,
    RECOMMENDATION_FILE,
    SENSITIVITY_FILE,
    STATISTICS_FILE,
    CalibrateOrder,
    CalibrationResult,
)
from workers.forge.calibration import charts
from workers.forge.calibration.collecting import Collected, collect
from workers.forge.calibration.recommending import recommend
from workers.forge.calibration.sensitivity import Sensitivity, measure
from workers.forge.checkpoints import linear_layers, listed, load, quantized_by
from workers.forge.data.samples import take
from workers.forge.data.tokenizing import check_known
from workers.forge.quantization.layers import ROUTERS
from workers.forge.refusing import Refused
from workers.forge.telling import Tell

ARTIFACT = "calibration"  #: the artifact's name, and its folder below `out`


def make(order: CalibrateOrder, out: Path, *, tell: Tell, started: float) -> CalibrationResult:
    """Write every file of the artifact below `out`; `started` is when the work began (`time.monotonic`).

    Raises:
        Refused: what the model or the data are not fit for.
    """
    folder = out / ARTIFACT
    folder.mkdir()
    loaded = load(order.model, tell=tell)
    already = quantized_by(order.model.folder)
    if already:
        raise Refused("unsupported_model", "The model is quantized already", f"by {already}: give the original")
    samples = take(order.samples, loaded.tokenizer, tell=tell)
    known = loaded.model.get_input_embeddings().num_embeddings
    check_known(int(samples.input_ids_NL[samples.attention_mask_NL == 1].max()), known)
    samples.save(folder)
    layers = _layers(loaded.model)
    facts = samples.facts
    tell.log(f"{facts.samples} samples, {facts.tokens:,} tokens, {len(layers)} linear layers")
    collected = collect(
        loaded.model, layers, samples.input_ids_NL, samples.attention_mask_NL, device=loaded.device, tell=tell
    )
    _write_statistics(folder, collected)
    found = measure(
        layers,
        collected,
        schemes=order.schemes,
        group_size=order.group_size,
        progress=lambda done: tell.progress(done, len(layers) - len(collected.unseen), "layers"),
    )
    _tell_gaps(collected, found, tell=tell)
    result = CalibrationResult(
        facts=facts,
        recommendation=recommend(
            found.table,
            [group.layers for group in collected.groups],
            order.schemes,
            smoothing=found.smoothing,
            plain=Scheme.FP16 if loaded.model.dtype == torch.float16 else Scheme.BF16,
        ),
        charts=[f"{ARTIFACT}/{path}" for path in charts.draw(folder, found.table, _absmax(collected))],
        seconds=round(monotonic() - started, 2),
    )
    _write_tables(folder, found, result)
    return result


def _layers(model: Any) -> dict[str, nn.Linear]:
    """The linear layers that can be quantized: all but the head, and what chooses experts."""
    head = model.get_output_embeddings()
    found = {
        name: layer for name, layer in linear_layers(model).items() if layer is not head and not ROUTERS.match(name)
    }
    if not found:
        raise Refused("unsupported_model", "The model has no linear layers to quantize", type(model).__name__)
    return found


def _write_statistics(folder: Path, collected: Collected) -> None:
    tensors = {
        f"{name}.{side}.{figure}": values.cpu().contiguous()
        for side, figures in (("input", collected.inputs), ("output", collected.outputs))
        for name, found in figures.items()
        for figure, values in found.result().items()
    }
    save_file(tensors, folder / STATISTICS_FILE)


def _tell_gaps(collected: Collected, found: Sensitivity, *, tell: Tell) -> None:
    if collected.unseen:
        tell.log(f"No token reached {len(collected.unseen)} layers: {listed(collected.unseen)}", "warning")
    for scheme, names in found.indivisible.items():
        tell.log(f"{scheme} has no figures where its groups do not divide the columns: {listed(names)}", "warning")


def _absmax(collected: Collected) -> dict[tuple[str, ...], Any]:
    return {group.layers: collected.inputs[group.layers[0]].absmax().cpu().numpy() for group in collected.groups}


def _write_tables(folder: Path, found: Sensitivity, result: CalibrationResult) -> None:
    rows = [row.model_dump(mode="json") for row in found.table]
    (folder / SENSITIVITY_FILE).write_text(json.dumps(rows, indent=1))
    (folder / RECOMMENDATION_FILE).write_text(result.recommendation.model_dump_json(indent=1))
    below = [path.removeprefix(f"{ARTIFACT}/") for path in result.charts]  # who reads this has the folder alone
    facts = result.model_copy(update={"charts": below})
    (folder / FACTS_FILE).write_text(facts.model_dump_json(indent=1, exclude={"sensitivity"}))
