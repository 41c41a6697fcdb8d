"""Reports of calibrations and evaluations for people: one HTML file each, and the headline table in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from services.compression import report_page as html
from services.compression import report_words as words
from services.compression.about import Origin
from services.compression.report_page import Cell
from services.compression.report_rows import Row, models, remarks, rows, tasks
from shared.contracts.compression import CalibrationSpec, LayerSensitivity, Recommendation, Scheme
from shared.contracts.evaluation import EvaluationFigures, Gate, TaskResult, Verdict
from shared.contracts.forge_orders import CalibrationResult, SampleFacts

CALIBRATION_REPORT, EVALUATION_REPORT = "calibration-report.html", "evaluation-report.html"
MEDIA_TYPE = "text/html; charset=utf-8"
LAYERS = 300  #: rows of the sensitivity table; the others are in the artifact
MEASURES = {"text": "perplexity", "choice": "multiple choice", "generation": "greedy answers"}
KEPT = 40  #: names of layers in one sentence


def calibration_report(
    result: CalibrationResult,
    *,
    model: str,
    spec: CalibrationSpec,
    charts: Mapping[str, bytes],
    data: Sequence[Origin] = (),
    calibration_id: str | None = None,
) -> bytes:
    """The page of a calibration: what it recommends and why, then every layer under every scheme, the worst first.

    `result.sensitivity` is filled in from its file; `charts` are PNG files by name, shown in that order. UTF-8.
    """
    about = [("Model", model), *([("Calibration", calibration_id)] if calibration_id else [])]
    parts = chain(
        [html.facts([*about, ("Took", words.seconds(result.seconds))]), _recommended(result.recommendation)],
        _sensitivity(result.sensitivity, result.recommendation, spec),
        _samples(result.facts, spec, data),
        _charts(charts),
    )
    return html.page(f"Calibration of {model}", parts)


def evaluation_report(
    figures: EvaluationFigures,
    *,
    gate: Gate | None,
    verdict: Verdict | None,
    charts: Mapping[str, bytes],
    data: Mapping[str, Sequence[Origin]] | None = None,
    job_id: str | None = None,
) -> bytes:
    """The page of an evaluation: the gate's verdict, everything that was measured of both models, the tasks.

    `charts` are PNG files by name, shown in that order; `data` names the sources of each task. UTF-8.
    """
    after, before, heads = figures.candidate, figures.baseline, _heads(figures)
    about = [("Model", after.name), *([("Beside", before.name)] if before else [])]
    about += [("Job", job_id)] if job_id else []
    parts = chain(
        [
            html.facts([*about, ("Computed on", figures.device), ("Took", words.seconds(figures.seconds))]),
            _judged(gate, verdict),
            html.heading("Before and after" if before else "What was measured"),
            html.table("What was measured", heads, (_compared(row, heads) for row in rows(figures))),
        ],
        map(html.note, remarks(figures)),
        [html.heading("Tasks"), *(_task(task, (data or {}).get(task.name, ())) for task in figures.tasks)],
        _charts(charts),
    )
    return html.page(f"Evaluation of {after.name}", parts)


def evaluation_table(figures: EvaluationFigures, *, served: bool = True) -> str:
    """The headline table in Markdown, with what engines said or without; it ends with a line feed."""
    heads, found = _heads(figures), rows(figures) if served else [*tasks(figures), *models(figures)]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * len(heads[1:])}"]
    lines += [f"| {' | '.join(_cell(each.text) for each in _compared(row, heads))} |" for row in found]
    return "\n".join(lines) + "\n"


def _cell(told: str) -> str:
    """A field of a Markdown table: what a name or a reason says changes no table and starts no HTML."""
    plain = " ".join(told.split())
    for sign in "\\|<>`*_[]":
        plain = plain.replace(sign, f"\\{sign}")
    return plain


def _recommended(recommendation: Recommendation) -> str:
    headline = f"Recommended: {recommendation.scheme}"
    told = [*recommendation.reasons]
    if recommendation.smoothing_strength is not None:
        told.append(f"SmoothQuant strength, where int8 is taken: {recommendation.smoothing_strength:g}")
    if recommendation.ignore:
        rest = len(recommendation.ignore) - KEPT
        more = f" and {rest} more" if rest > 0 else ""
        told.append(f"Layers to leave alone: {', '.join(recommendation.ignore[:KEPT])}{more}")
    return html.verdict(headline, told, kind="ok")


def _sensitivity(found: Sequence[LayerSensitivity], chosen: Recommendation, spec: CalibrationSpec) -> Iterator[str]:
    yield html.heading("What each scheme costs each layer")
    yield html.note(
        "Signal to quantization noise of a layer's output in dB, the worst layers first: 20 dB is noise of 10% of the"
        f" signal's size, 40 dB of 1%. Groups of {spec.group_size} where a scheme has groups."
    )
    schemes = list(dict.fromkeys(scheme for layer in found for scheme in layer.sqnr_db))
    worst = sorted(found, key=lambda layer: _worst(layer, chosen.scheme))
    heads = ["Layer", *(f"{scheme} ✓" if scheme == chosen.scheme else scheme for scheme in schemes), "Shape"]
    yield html.table(heads[0], heads, (_layer(layer, schemes, chosen) for layer in worst[:LAYERS]))
    if len(worst) > LAYERS:
        yield html.note(
            f"{len(worst) - LAYERS:,} layers that lose less are not shown; sensitivity.json of the artifact has all."
        )


def _worst(layer: LayerSensitivity, scheme: Scheme) -> tuple[float, float]:
    """By the scheme that is recommended, then by the one that costs most."""
    return layer.sqnr_db.get(scheme, float("inf")), min(layer.sqnr_db.values(), default=float("inf"))


def _layer(layer: LayerSensitivity, schemes: Sequence[str], chosen: Recommendation) -> list[Cell]:
    kept = any(layer.layer == name or layer.layer.endswith(f".{name}") for name in chosen.ignore)
    shown = [Cell(f"{layer.layer} · left alone" if kept else layer.layer, "note" if kept else "")]
    for scheme in schemes:
        value = layer.sqnr_db.get(scheme)
        marked = "number marked" if scheme == chosen.scheme and not kept else "number"
        shown.append(Cell(words.NONE if value is None else f"{value:.1f}", marked))
    return [*shown, Cell(" × ".join(map(str, layer.shape)))]


def _samples(facts: SampleFacts, spec: CalibrationSpec, data: Sequence[Origin]) -> Iterator[str]:
    sampling = spec.sampling
    pairs = [
        ("Samples", f"{facts.samples:,} of {facts.sequence_length:,} tokens, {facts.tokens:,} without padding"),
        ("Chosen", f"{sampling.strategy} of {facts.texts:,} texts, seed {sampling.seed}"),
        ("Shaped", "packed: samples are filled up with the next text" if sampling.packed else "one text a sample"),
        ("Texts left out", _counted(facts.left_out)),
        ("Texts taken", _counted(facts.sources)),
        ("Token ids", f"sha256 {facts.sha256}"),
    ]
    yield html.heading("Samples")
    yield html.facts(pairs)
    yield html.origins(data)


def _judged(gate: Gate | None, verdict: Verdict | None) -> str:
    if gate is None or verdict is None:
        return html.verdict("No gate was set: nothing was judged")
    if verdict.passed:
        return html.verdict("Passed", words.limits(gate), kind="ok")
    return html.verdict("Not passed", [*verdict.failures, f"The gate: {'; '.join(words.limits(gate))}."], kind="error")


def _heads(figures: EvaluationFigures) -> list[str]:
    return ["Figure", "Original", "Result", "Change"] if figures.baseline else ["Figure", "Result"]


def _compared(row: Row, heads: Sequence[str]) -> list[Cell]:
    if len(heads) == 2:  # one model alone
        return [Cell(row.label), Cell(row.result)]
    kind = {True: "number ok", False: "number flagged", None: "number"}[row.good]
    return [Cell(row.label), Cell(row.original), Cell(row.result), Cell(row.change, kind)]


def _task(task: TaskResult, data: Sequence[Origin]) -> str:
    pairs = [("Samples", f"{task.samples:,}, {task.tokens:,} tokens"), ("Left out", _counted(task.skipped))]
    pairs += [("sacrebleu", task.signature)] if task.signature else []
    pairs.append(("Data", f"sha256 {task.sha256}"))
    title = f"<h3>{html.text(task.name)}: {MEASURES[task.type]}</h3>"
    return f"<section>\n{title}\n{html.facts(pairs)}{html.origins(data)}</section>\n"


def _charts(charts: Mapping[str, bytes]) -> Iterator[str]:
    if charts:
        yield html.heading("Charts")
        yield from html.charts(charts)


def _counted(counts: Mapping[str, int]) -> str:
    told = [f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    return ", ".join(told) or "none"
