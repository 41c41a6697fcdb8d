"""The report of a tuning for people: one HTML file. And its metrics as a table for programs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from services.compression import report_page as html
from services.compression import report_words as words
from services.compression.about import Origin
from services.compression.report_page import Cell
from services.tuning import described
from shared.contracts.tuning import DataFacts, TuningFigures, TuningSpec
from shared.contracts.tuning_orders import ACCURACY, LOSS, VALIDATION_ACCURACY, VALIDATION_LOSS

TUNING_REPORT = "tuning-report.html"
MEDIA_TYPE = "text/html; charset=utf-8"
#: of the CSV file, as OpenAI's guide to fine-tuning lists them, and the keys of metrics behind them
COLUMNS = {
    "train_loss": LOSS,
    "train_accuracy": ACCURACY,
    "valid_loss": VALIDATION_LOSS,
    "valid_mean_token_accuracy": VALIDATION_ACCURACY,
}


def tuning_report(
    figures: TuningFigures,
    *,
    name: str,
    spec: TuningSpec,
    charts: Mapping[str, bytes],
    data: Sequence[Origin] = (),
    validation: Sequence[Origin] = (),
    job_id: str | None = None,
) -> bytes:
    """The page of a tuning: what came of it, how it was trained, on which data, and its curves.

    `charts` are PNG files by name, shown in that order; `data` and `validation` are where the examples are from. UTF-8.
    """
    about = [("Model", name), ("Base", spec.model), ("Method", described.method(spec))]
    about += [("Job", job_id)] if job_id else []
    parts = chain(
        [
            html.facts([*about, ("Took", words.seconds(figures.seconds))]),
            _verdict(figures),
            html.heading("What came of it"),
            html.table("What came of it", ["Figure", "Value"], _rows(figures)),
        ],
        [html.heading("How it was trained"), html.facts(described.hyperparameters(spec, figures.setting))],
        [html.heading("How it ran"), html.facts(described.ways(figures.setting))],
        _relief(figures),
        _data(figures.data, data, validation),
        _charts(charts),
    )
    return html.page(f"Tuning of {spec.model}", parts)


def metrics_csv(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> bytes:
    """Metrics of steps as a CSV file; a figure that a step has not is empty. Steps without any of them are left out."""
    lines = [",".join(["step", *COLUMNS])]
    for step, values in rows:
        found = [values.get(key) for key in COLUMNS.values()]
        if any(value is not None for value in found):
            lines.append(",".join([str(step), *("" if value is None else repr(float(value)) for value in found)]))
    return ("\n".join(lines) + "\n").encode()


def _verdict(figures: TuningFigures) -> str:
    told = [f"Training loss, over the whole run: {words.figure(figures.train_loss)}"]
    if figures.stopped_early:
        told.append(f"It was stopped after step {figures.steps:,}: the validation loss got no better")
    if figures.validation_loss is None:
        return html.verdict("Trained; no examples were kept apart, so nothing says how well it does on others", told)
    at = f" at step {figures.best_step:,}" if figures.best_step is not None else ""
    return html.verdict(f"Validation loss {words.figure(figures.validation_loss)}{at}", told, kind="ok")


def _rows(figures: TuningFigures) -> Iterator[list[Cell]]:
    share = figures.trainable / figures.parameters if figures.parameters else 0.0
    pairs = [
        ("Steps", f"{figures.steps:,}"),
        ("Epochs", words.figure(figures.epochs, 3)),
        ("Parameters trained", f"{words.count(figures.trainable)} of {words.count(figures.parameters)} ({share:.2%})"),
        ("Tokens seen", f"{figures.tokens:,}"),
        ("Tokens that the loss is of", f"{figures.trained_tokens:,}"),
        ("Training loss", words.figure(figures.train_loss)),
    ]
    if figures.validation_loss is not None:
        pairs.append(("Validation loss, the lowest", words.figure(figures.validation_loss)))
    pairs.append(("Tokens a second, median", words.figure(figures.tokens_per_second, 3)))
    if figures.mfu is not None:
        pairs.append(("Model FLOPs utilisation (arXiv 2204.02311)", f"{figures.mfu:.1%}"))
    pairs.append(("Peak memory of a device", words.size(figures.peak_memory_bytes)))
    for label, told in pairs:
        yield [Cell(label), Cell(told)]


def _relief(figures: TuningFigures) -> Iterator[str]:
    told = described.relieved(figures.relief)
    if told:
        yield html.heading("Memory")
        yield html.note("The run had run out of memory. It went on from its last checkpoint, and did what follows.")
        yield html.items(told)


def _data(facts: DataFacts, data: Sequence[Origin], validation: Sequence[Origin]) -> Iterator[str]:
    pairs = [
        ("Samples", f"{facts.kept:,} of {facts.read:,}, and {facts.validation:,} to look at the loss of"),
        ("Left out", words_of(facts.left_out)),
        ("Kinds", words_of(facts.kinds)),
        ("Taken from", words_of(facts.sources)),
        ("Cut off at the end", f"{facts.truncated:,}"),
        ("Rows of an epoch", f"{facts.rows:,}"),
        ("Tokens of an epoch", f"{facts.tokens:,}, the loss is of {facts.trained_tokens:,}"),
        ("Longest sample", f"{facts.longest:,} tokens"),
        ("Token ids and loss mask", f"sha256 {facts.sha256}"),
    ]
    yield html.heading("Data")
    yield html.facts(pairs)
    yield html.origins(data)
    if validation:
        yield html.note("Looked at, and not trained on:")
        yield html.origins(validation)


def _charts(charts: Mapping[str, bytes]) -> Iterator[str]:
    if charts:
        yield html.heading("Charts")
        yield from html.charts(charts)


def words_of(counts: Mapping[str, int]) -> str:
    """Counts by what they are of: `3 duplicate, 1 too short`."""
    told = [f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    return ", ".join(told) or "none"
