"""The table that an evaluation comes to: a figure of the original, of the result, and what lies between."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from services.compression import report_words as words
from shared.contracts.evaluation import EvaluationFigures, ServedFigures, TaskResult

Better = Literal["more", "less", "neither"]

#: metric → what people call it, and which way is better; the ones that are compared by their ratio come first
METRICS: dict[str, tuple[str, Better]] = {
    "perplexity": ("Perplexity", "less"),
    "kl_divergence": ("KL divergence, nats a token", "less"),
    "agreement": ("Equal next tokens", "more"),
    "accuracy": ("Accuracy", "more"),
    "accuracy_normalized": ("Accuracy, normalized", "more"),
    "exact_match": ("Exact match", "more"),
    "bleu": ("BLEU", "more"),
    "chrf": ("chrF", "more"),
    "rouge1": ("ROUGE-1", "more"),
    "rouge2": ("ROUGE-2", "more"),
    "rougeL": ("ROUGE-L", "more"),
}
BETWEEN = ("kl_divergence", "agreement")  #: figures of two models, not of one
UNMEASURED = "not measured"
TOLD_APART = ("ppl_increase",)  #: it is the change of another row

#: label, the figure, how it is written, which way is better
Facet = tuple[str, Callable[[Any], Any], Callable[[Any], str], Better]
_OF_MODELS: tuple[Facet, ...] = (
    ("Size of all files", lambda model: model.bytes, words.size, "less"),
    ("Weights", lambda model: model.weight_bytes, words.size, "less"),
    ("Parameters", lambda model: model.parameters, words.count, "neither"),
    ("FLOPs a token", lambda model: model.flops_per_token, words.count, "neither"),
    ("Load time, evaluating", lambda model: model.load_s, words.seconds, "less"),
    ("Peak memory, evaluating", lambda model: model.peak_memory_bytes, words.size, "less"),
)
_OF_ENGINES: tuple[Facet, ...] = (
    ("Load time", lambda served: served.load_s, words.seconds, "less"),
    ("Memory", lambda served: served.memory_bytes, words.size, "less"),
    ("Time to first token", lambda served: served.ttft_ms, lambda value: f"{words.figure(value, 3)} ms", "less"),
    ("Tokens a second", lambda served: served.tokens_per_second, lambda value: words.figure(value, 3), "more"),
)


@dataclass(frozen=True)
class Row:
    """One figure. `good` says whether the change is one for the better; None where there is no saying."""

    label: str
    original: str
    result: str
    change: str = ""
    good: bool | None = None


def rows(figures: EvaluationFigures) -> list[Row]:
    """Everything that was found, the tasks first."""
    return [*tasks(figures), *models(figures), *engines(figures)]


def tasks(figures: EvaluationFigures) -> Iterator[Row]:
    """What tasks found. A task is named where there are several."""
    for task in figures.tasks:
        name = f" ({task.name})" if len(figures.tasks) > 1 else ""
        for metric, value in task.candidate.items():
            if metric not in TOLD_APART:
                label, better = METRICS.get(metric, (metric, "neither"))
                yield _metric(task, metric, value, label=f"{label}{name}", better=better)


def models(figures: EvaluationFigures) -> Iterator[Row]:
    """What the checkpoints are by themselves."""
    before, after = figures.baseline, figures.candidate
    for label, of, shown, better in _OF_MODELS:
        value = of(after)
        if before is None:
            yield Row(label, words.NONE, shown(value))
        else:
            yield _row(label, of(before), value, shown, better=better)


def engines(figures: EvaluationFigures) -> Iterator[Row]:
    """What engines said of them; one row where neither was served."""
    before, after = figures.baseline, figures.candidate
    old, missing = before.served if before else None, words.NONE if before is None else UNMEASURED
    if old is None and after.served is None:
        yield Row("On an engine", missing, UNMEASURED)
        return
    for label, of, shown, better in _OF_ENGINES:
        was = None if old is None else of(old)
        now = None if after.served is None else of(after.served)
        if was is not None and now is not None:
            yield _row(f"{label}, served", was, now, shown, better=better)
        else:
            told = missing if was is None else shown(was), UNMEASURED if now is None else shown(now)
            yield Row(f"{label}, served", *told)


def remarks(figures: EvaluationFigures) -> Iterator[str]:
    """Where each model was served, or why it was not."""
    for model in filter(None, (figures.baseline, figures.candidate)):
        if model.served is not None:
            yield f"{model.name} was served by {engine_of(model.served)}; medians."
        else:
            yield f"{model.name} was not measured on an engine{f': {model.not_served}' if model.not_served else ''}."


def engine_of(served: ServedFigures) -> str:
    """Where figures were measured: `vllm on h200 × 1, 128 tokens in, 64 out`."""
    return (
        f"{served.engine} on {served.gpu_class} × {served.devices},"
        f" {served.prompt_tokens:,} tokens in, {served.completion_tokens:,} out"
    )


def _metric(task: TaskResult, metric: str, value: float, *, label: str, better: Better) -> Row:
    if metric in BETWEEN or task.baseline is None or metric not in task.baseline:
        return Row(label, words.NONE, words.figure(value))
    if metric == "perplexity":
        return _row(label, task.baseline[metric], value, words.figure, better=better)
    before = task.baseline[metric]
    told = words.difference(before, value)
    return Row(label, words.figure(before), words.figure(value), told, _good(value - before, better))


def _row(label: str, before: float, after: float, shown: Callable[[Any], str], *, better: Better) -> Row:
    return Row(label, shown(before), shown(after), words.change(before, after), _good(after - before, better))


def _good(gap: float, better: Better) -> bool | None:
    return None if better == "neither" or not gap else (gap > 0) == (better == "more")
