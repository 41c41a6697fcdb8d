"""What calibrations, quantizations and evaluations found, in the words of a terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from services.cli.amounts import count, size
from services.cli.client import Client
from services.cli.job_view import LONGEST, clip, show_fields
from services.cli.model_jobs import Telling
from services.cli.output import say, table
from shared.contracts.compression import Scheme

MISSING = "–"
KINDS = {
    "perplexity": "{:.3f}",
    "kl_divergence": "{:.5f}",
    "agreement": "{:.2%}",
    "accuracy": "{:.2%}",
    "accuracy_normalized": "{:.2%}",
    "exact_match": "{:.2%}",
    "rouge1": "{:.4f}",
    "rouge2": "{:.4f}",
    "rougeL": "{:.4f}",
    "bleu": "{:.2f}",
    "chrf": "{:.2f}",
}
BESIDE = ("ppl_increase",)  # is the change of the perplexity, which has a column
Row = tuple[str, str, str, str]
RESULT = ("job", "model", "artifact", "evaluation")  #: what is printed with --json, in this order


def telling(kind: str, *, as_json: bool) -> Telling:
    """How a job of that kind is told of."""
    return Telling(RESULT, lambda client, found: show(client, kind, found), as_json)


def show(client: Client, kind: str, found: Mapping[str, Any]) -> None:
    """What a job left: the evaluation's table, the calibration, the model. `found` is `GET /v1/jobs/{id}/result`."""
    if found["evaluation"]:
        show_evaluation(client.get(f"/v1/evaluations/{found['evaluation']}"))
    if kind == "calibration" and found["calibration"]:
        show_calibration(client.get(f"/v1/calibrations/{found['calibration']}"))
    if kind == "quantization" and found["model"]:
        show_model(client.get(f"/v1/models/{found['model']}"))
    show_fields(("artifact", found[name]) for name in ("artifact",))


def show_evaluation(evaluation: Mapping[str, Any]) -> None:
    """An evaluation as a table: the original beside what was made of it, where there are two."""
    figures = evaluation["figures"]
    show_rows(rows(figures), names=[each["name"] for each in (figures["baseline"], figures["candidate"]) if each])
    for name in ("baseline", "candidate"):
        if figures[name] and figures[name].get("not_served"):
            say(clip(f"{figures[name]['name']} was not timed: {figures[name]['not_served']}", width=LONGEST))
    if evaluation["gate"]:
        asked = ", ".join(f"{name} {value:g}" for name, value in evaluation["gate"].items() if value is not None)
        say(f"gate       {'passed' if evaluation['passed'] else 'NOT MET'}: {asked}")
        for failure in evaluation["failures"]:
            say(f"           {clip(failure, width=LONGEST)}")


def show_rows(found: Sequence[Row], *, names: Sequence[str]) -> None:
    """Rows under the models' names; one model has one column."""
    if len(names) == 2:
        table(("", names[0], names[1], "change"), found)
    else:
        table(("", names[0]), [(what, after) for what, _, after, _ in found])


def rows(figures: Mapping[str, Any]) -> list[Row]:
    """What was measured: (what, baseline, candidate, change)."""
    before, after = figures["baseline"], figures["candidate"]
    found = [*_checkpoint(before, after)]
    for task in figures["tasks"]:
        found += _beside(task["name"], task["baseline"] or {}, task["candidate"])
    return [*found, *_served((before or {}).get("served"), after.get("served"))]


def show_comparison(found: Mapping[str, Any]) -> None:
    """Two models beside each other. `found` is `GET /v1/models/{a}/compare/{b}`."""
    a, b = found["a"], found["b"]
    table(("", a["id"], b["id"], "change"), compared(found))
    if found["lineage"]:
        say(f"{found['lineage']['derived']} comes of {found['lineage']['base']}")
    if not found["tasks"]:
        say(f"No evaluation knows both: modelyard evaluate {b['id']} --baseline {a['id']}")


def compared(found: Mapping[str, Any]) -> list[Row]:
    """What is known of two models: (what, a, b, change)."""
    a, b = found["a"], found["b"]
    one, other = a["measured"], b["measured"]
    known = [
        _row("dtype", a["dtype"], b["dtype"], str),
        _row("size", a["bytes"], b["bytes"], size),
        _row("parameters", a["parameters"], b["parameters"], count),
        _row("KV cache a token", a["kv_bytes_per_token"], b["kv_bytes_per_token"], size),
        *_computed(one, other),
    ]
    for task in found["tasks"]:
        known += _beside(task["name"], task["a"], {**task["b"], **task["between"]})
    return [*known, *_served((one or {}).get("served"), (other or {}).get("served"))]


def show_calibration(calibration: Mapping[str, Any]) -> None:
    """What was looked at, and what is recommended."""
    facts, told = calibration["facts"], calibration["recommendation"]
    taken = f"{facts['samples']} × {facts['sequence_length']} tokens of {facts['texts']} texts"
    out = ", ".join(f"{number} {reason}" for reason, number in facts["left_out"].items())
    smoothing = told["smoothing_strength"] if told["scheme"] == Scheme.INT8 else None
    show_fields([
        ("samples", f"{taken}{f' (left out: {out})' if out else ''}"),
        ("recommends", f"{told['scheme']}{f', smoothing {smoothing:g}' if smoothing is not None else ''}"),
        ("ignore", ", ".join(told["ignore"])),
        *(("because", reason) for reason in told["reasons"]),
        ("id", calibration["id"]),
    ])  # fmt: skip


def show_model(model: Mapping[str, Any]) -> None:
    """A new version, and how it is talked to."""
    name = model["id"].partition("@")[0]
    show_fields([
        ("model", f"{name}@{model['version']} ({model['version_id']})"),
        ("weights", f"{count(model['parameters'])} parameters in {model['dtype']}, {size(model['bytes'])}"),
        ("aliases", ", ".join(model["aliases"])),
        ("next", f"modelyard chat {name}"),
    ])  # fmt: skip


def _checkpoint(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Iterator[Row]:
    for what, field, shown in (
        ("size", "bytes", size),
        ("weights", "weight_bytes", size),
        ("parameters", "parameters", count),
    ):
        yield _row(what, _of(before, field), after[field], shown)
    yield from _computed(before, after)


def _computed(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Iterator[Row]:
    if before is None and after is None:
        return
    for what, field, shown in (
        ("FLOPs a token", "flops_per_token", count),
        ("load", "load_s", _seconds),
        ("peak memory", "peak_memory_bytes", size),
    ):
        yield _row(what, _of(before, field), _of(after, field), shown)


def _served(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Iterator[Row]:
    either = after or before
    if either is None:
        return
    engine = f"{either['engine']} on {either['gpu_class']}"
    for what, field, shown in (
        (f"{engine}: load", "load_s", _seconds),
        (f"{engine}: memory", "memory_bytes", size),
        (f"{engine}: first token", "ttft_ms", lambda value: f"{value:.1f} ms"),
        (f"{engine}: tokens a second", "tokens_per_second", lambda value: f"{value:.1f}"),
    ):
        yield _row(what, _of(before, field), _of(after, field), shown)


def _beside(task: str, before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[Row]:
    for metric, value in after.items():
        if metric not in BESIDE:
            yield _row(f"{task}: {metric}", before.get(metric), value, KINDS.get(metric, "{:.4g}").format)


def _row(what: str, before: Any, after: Any, shown: Callable[[Any], str]) -> Row:
    change = ""
    if isinstance(before, int | float) and isinstance(after, int | float) and before and before != after:
        part = after / before - 1
        change = f"{part:+.2%}" if abs(part) < 0.1 else f"{part:+.0%}"
    return what, _cell(before, shown), _cell(after, shown), change


def _cell(value: Any, shown: Callable[[Any], str]) -> str:
    return MISSING if value is None else shown(value)


def _of(figures: Mapping[str, Any] | None, field: str) -> float | None:
    return None if figures is None else figures[field]


def _seconds(value: float) -> str:
    return f"{value:.1f} s"
