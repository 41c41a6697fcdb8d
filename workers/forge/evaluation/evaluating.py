"""An evaluation from its order to its result."""

from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import orjson
import torch

from shared.contracts.evaluation import EvaluationFigures, ModelFigures, TaskResult
from shared.contracts.forge_orders import EvaluateOrder, EvaluationResult
from workers.forge.checkpoints import load, sizes
from workers.forge.evaluation import charts, texts
from workers.forge.evaluation.architecture import architecture
from workers.forge.evaluation.memory import Peak
from workers.forge.evaluation.preparing import prepare
from workers.forge.evaluation.subjects import Reader, Role, Runner
from workers.forge.evaluation.works import TextWork, Work
from workers.forge.telling import Tell

FOLDER = "evaluation"  #: of charts and rows, below `out`
ROWS = "rows.jsonl"


class _Progress:
    """Sequences, choices and answers that models are done with."""

    def __init__(self, total: int, *, tell: Tell) -> None:
        self._done = 0
        self._total = total
        self._tell = tell
        self.advance(0)

    def advance(self, count: int) -> None:
        self._done += count
        self._tell.progress(self._done, self._total, unit="samples")


def evaluate(order: EvaluateOrder, out: Path, *, tell: Tell) -> EvaluationResult:
    """Judge the candidate, beside the baseline where there is one; charts and rows go into `out/evaluation`.

    Each model is loaded alone at first, runs the tasks for which it needs no other, and is measured; then both are in
    memory for the texts. The same order finds the same figures, times and memory excepted.

    Raises:
        Refused: `invalid_data`, `not_enough_data`, `different_tokenizers`, `non_finite_logits`, and what `load` says.
    """
    began = monotonic()
    readers: dict[Role, Reader] = {"candidate": Reader.of(order.candidate)}
    if order.baseline is not None:
        readers["baseline"] = Reader.of(order.baseline)
    works = prepare(order, readers, tell=tell)
    with torch.inference_mode():
        progress = _Progress(sum(work.samples for work in works) * len(readers), tell=tell)
        figures = _run(works, readers, progress, tell=tell)
    results = [work.result() for work in works]
    _tell_results(results, tell=tell)
    found = EvaluationFigures(
        candidate=figures["candidate"],
        baseline=figures.get("baseline"),
        tasks=results,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        seconds=monotonic() - began,
    )
    return _write(found, works, out)


def check(order: EvaluateOrder) -> None:
    """Read an order's data for a candidate that is still to be made out of the baseline, whose tokens it will have.

    Raises:
        Refused: `invalid_data`, `not_enough_data`: what `evaluate` would say of the data hours later.
    """
    assert order.baseline is not None
    prepare(order, {"candidate": Reader.of(order.baseline)}, tell=Tell(lambda _: None))


def _run(
    works: Sequence[Work], readers: dict[Role, Reader], progress: _Progress, *, tell: Tell
) -> dict[Role, ModelFigures]:
    text_works = [work for work in works if isinstance(work, TextWork)]
    runners: dict[Role, Runner] = {}
    figures: dict[Role, ModelFigures] = {}
    for role, reader in readers.items():
        runner, figures[role] = _alone(role, reader, works, progress, tell=tell)
        if text_works:
            runners[role] = runner
        del runner  # its weights make room for the next one's
    for work in text_works:
        tell.log(f"{work.task.name}: {work.samples:,} sequences of {work.ids_SL.shape[1]:,} tokens")
        work.run(
            runners["candidate"],
            runners.get("baseline"),
            done=lambda count: progress.advance(count * len(readers)),
        )
    return figures


def _alone(
    role: Role, reader: Reader, works: Sequence[Work], progress: _Progress, *, tell: Tell
) -> tuple[Runner, ModelFigures]:
    """Load a model and run what it needs no other for; of texts no more than shows how much memory they take."""
    size, shape = sizes(reader.subject.folder), architecture(reader.subject.folder)
    with Peak("cuda" if torch.cuda.is_available() else "cpu") as peak:
        loaded = load(reader.subject, tell=tell)
        runner = Runner(reader, loaded.model, loaded.device)
        probed = False
        for work in works:
            if not isinstance(work, TextWork):
                tell.log(f"{work.task.name}: {work.samples:,} samples for {reader.name}")
                work.run(role, runner, done=progress.advance)
            elif not probed:
                texts.probe(work.ids_SL, runner)
                probed = True
    return runner, ModelFigures(
        name=reader.name,
        bytes=size.bytes,
        weight_bytes=size.weight_bytes,
        parameters=shape.parameters,
        flops_per_token=shape.flops_per_token,
        load_s=loaded.load_s,
        peak_memory_bytes=peak.bytes,
    )


def _tell_results(results: Sequence[TaskResult], *, tell: Tell) -> None:
    for step, result in enumerate(results):
        tell.metric(step, **result.candidate)
        told = ", ".join(f"{name} {value:.4g}" for name, value in result.candidate.items())
        beside = ", ".join(f"{name} {value:.4g}" for name, value in (result.baseline or {}).items())
        tell.log(f"{result.name}: {told}" + (f"; baseline: {beside}" if beside else ""))


def _write(figures: EvaluationFigures, works: Sequence[Work], out: Path) -> EvaluationResult:
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ROWS).open("wb") as file:
        for work in works:
            for row in work.rows():
                line = {"task": work.task.name, "type": work.task.type} | row
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    kl = {
        work.task.name: [found.kl / found.tokens for found in work.found if found.kl is not None]
        for work in works
        if isinstance(work, TextWork)
    }
    names = charts.draw(figures, folder, kl={name: values for name, values in kl.items() if values})
    return EvaluationResult(figures=figures, charts=[f"{FOLDER}/{name}" for name in names], rows=f"{FOLDER}/{ROWS}")
