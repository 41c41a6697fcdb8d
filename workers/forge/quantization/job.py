"""A quantization from its order to its result: load, check, quantize, save, judge."""

import gc
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist

from shared.contracts.compression import SCHEMES, needs_data
from shared.contracts.forge_orders import QuantizationResult, QuantizeOrder
from workers.forge.checkpoints import (
    check_folder,
    linear_layers,
    load_tokenizer,
    quantized_by,
    read_config,
    sizes,
)
from workers.forge.data.samples import Samples, take
from workers.forge.data.tokenizing import check_known
from workers.forge.evaluation.evaluating import check, evaluate
from workers.forge.quantization import layers, saving
from workers.forge.quantization.casting import cast
from workers.forge.quantization.layers import Plan
from workers.forge.ranks import rank
from workers.forge.refusing import Refused
from workers.forge.telling import Tell


class Phases:
    """Where the time went, one line of the job's log for each part of the work."""

    def __init__(self, tell: Tell, *, started: float) -> None:
        self._tell = tell
        self._started = started
        self._seconds: dict[str, float] = {}
        self._note("imports", since=started)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        since = monotonic()
        yield
        self._note(name, since=since)

    def seconds(self, *names: str) -> float:
        """Of some phases; without names of all since the process began."""
        return sum(self._seconds[name] for name in names) if names else monotonic() - self._started

    def _note(self, name: str, *, since: float) -> None:
        self._seconds[name] = monotonic() - since
        self._tell.log(f"{name}: {self._seconds[name]:.1f} s")


def quantize(order: QuantizeOrder, out: Path, *, tell: Tell, started: float) -> QuantizationResult:
    """Write `out/checkpoint`, whole or not at all, and judge it where the order says how.

    `started` is when the process began (`time.monotonic`). Under torchrun every rank calls it; rank 0 writes and
    judges, the others return once everything is written.

    Raises:
        Refused: `unsafe_model`, `unsupported_model`, `non_finite_weights`, `pattern_matches_nothing`,
            `group_size_does_not_divide`, `invalid_data`, `not_enough_data`.
    """
    phases = Phases(tell, started=started)
    _examine(order)
    if order.evaluate is not None and rank() == 0:
        with phases.phase("evaluation data"):
            check(order.evaluate)
    made = _cast(order, out, phases) if not SCHEMES[order.scheme].methods else _compress(order, out, phases, tell=tell)
    _leave_ranks()
    if order.evaluate is not None and rank() == 0:
        _free_memory()
        made = made.model_copy(update={"evaluation": evaluate(order.evaluate, out, tell=tell)})
    return made


def _examine(order: QuantizeOrder) -> None:
    check_folder(order.model.folder)
    read_config(order.model.folder)
    already = quantized_by(order.model.folder)
    if already:
        raise Refused("unsupported_model", "The model is quantized already", f"by {already}: give the original")


def _cast(order: QuantizeOrder, out: Path, phases: Phases) -> QuantizationResult:
    with phases.phase("load"):
        model = cast(order.model.folder, order.scheme)
    with phases.phase("save"):
        _save(model, order.model.folder, out, plan=None, recipe=None)
    return QuantizationResult(
        layers=0,
        kept=list(linear_layers(model)),
        quantize_s=phases.seconds("load", "save"),
        seconds=phases.seconds(),
        peak_memory_bytes=_peak_memory(),
        bytes=sizes(out / saving.CHECKPOINT).bytes,
    )


def _compress(order: QuantizeOrder, out: Path, phases: Phases, *, tell: Tell) -> QuantizationResult:
    with phases.phase("llm-compressor"):  # a second and a half that a cast does without
        from workers.forge.quantization import compressing, loading, recipe  # noqa: PLC0415

    with phases.phase("load"):
        loading.join_ranks()
        model = loading.load(order.model.folder)
        tokenizer = load_tokenizer(order.model.folder)
        planned = layers.plan(order, model)
        saving.check_experts(order.model.folder, planned)
    _tell_plan(planned, tell)
    with phases.phase("samples"):
        samples = _samples(order, tokenizer, tell=tell)
        if samples is not None:
            check_known(int(samples.input_ids_NL.max()), model.get_input_embeddings().num_embeddings)
    made = recipe.modifiers(order, planned)
    with phases.phase("quantize"):
        compressing.compress(model, tokenizer, made, samples, tell=tell)
    with phases.phase("save"):
        _save(model, order.model.folder, out, plan=planned, recipe=recipe.as_yaml(made))
    return QuantizationResult(
        layers=len(planned.quantized),
        kept=list(planned.kept),
        facts=samples.facts if samples else None,
        quantize_s=phases.seconds("quantize", "save"),
        seconds=phases.seconds(),
        peak_memory_bytes=_peak_memory(),
        bytes=sizes(out / saving.CHECKPOINT).bytes,
    )


def _save(model: Any, original: Path, out: Path, *, plan: Plan | None, recipe: str | None) -> None:
    partial = out / saving.PARTIAL
    if rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    saving.save(model, partial)
    if rank() == 0:
        saving.finish(partial, original, plan=plan, recipe=recipe)
        saving.publish(partial, out / saving.CHECKPOINT)
    if dist.is_initialized():
        dist.barrier()  # nobody says that it is done before it is


def _samples(order: QuantizeOrder, tokenizer: Any, *, tell: Tell) -> Samples | None:
    if not needs_data(order.scheme, order.method):
        return None
    if order.calibration is not None:
        return Samples.load(order.calibration)
    if order.samples is None:
        raise Refused("not_enough_data", "The scheme needs calibration data", f"{order.scheme} by {order.method}")
    return take(order.samples, tokenizer, tell=tell)


def _tell_plan(planned: Plan, tell: Tell) -> None:
    tell.log(f"{len(planned.quantized)} layers are quantized, {len(planned.kept)} stay as they are")
    if planned.widened:
        names = ", ".join(planned.widened)
        tell.log(f"these follow the layers that engines run them together with: {names}", "warning")


def _peak_memory() -> int:
    """Bytes: of the fullest GPU, or of this process where there is none."""
    if not torch.cuda.is_available():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    peak = torch.tensor(torch.cuda.max_memory_allocated(), device="cuda")
    if dist.is_initialized():
        dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    return int(peak)


def _leave_ranks() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_memory() -> None:
    """Give back what the quantization held: the evaluation loads two models, one after the other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
