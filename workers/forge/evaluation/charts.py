"""PNG charts of an evaluation. Drawn on figures of their own (Agg): no display, no state of pyplot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.contracts.evaluation import EvaluationFigures, TaskResult

CANDIDATE, BASELINE = "#2f6690", "#b4bcc6"  # dark before light, legible in grey too
_INK, _FAINT, _PAPER = "#2b3036", "#d9dde2", "#ffffff"
_WIDTH, _ROW, _FRAME = 8.0, 0.52, 1.3  # inches: of a chart, of a pair of bars, of title, axis and legend
_DPI = 120
_BAR = 0.38  # of a pair's height
_OUT_OF_100 = ("bleu", "chrf")
STYLE = {
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
}

Bars = Sequence[tuple[str, float, float | None]]
"""Label, candidate's value, baseline's."""


def draw(figures: EvaluationFigures, folder: Path, *, kl: Mapping[str, Sequence[float]]) -> list[str]:
    """Write what there is to show, and name it. `kl` holds each text task's mean KL divergence a sequence, in nats."""
    import matplotlib as mpl  # noqa: PLC0415 - a second, at the end of what takes minutes

    with mpl.rc_context(STYLE):
        drawn = {
            "size.png": _size(figures),
            "perplexity.png": _perplexity(figures),
            "kl-divergence.png": _divergence(kl),
            "tasks.png": _tasks(figures),
        }
        for name, figure in drawn.items():
            if figure is not None:
                figure.savefig(folder / name, dpi=_DPI, facecolor=_PAPER)
    return [name for name, figure in drawn.items() if figure is not None]


def _size(figures: EvaluationFigures) -> Any:
    after, before = figures.candidate, figures.baseline
    bars: Bars = [
        ("weights", after.weight_bytes / 1e6, before.weight_bytes / 1e6 if before else None),
        ("all files", after.bytes / 1e6, before.bytes / 1e6 if before else None),
    ]
    figure, (axes,) = _canvas([len(bars)])
    _pairs(axes, bars, figures)
    axes.set_title("Size on disk (MB)")
    return figure


def _perplexity(figures: EvaluationFigures) -> Any:
    bars: Bars = [
        (task.name, task.candidate["perplexity"], (task.baseline or {}).get("perplexity"))
        for task in figures.tasks
        if task.type == "text"
    ]
    if not bars:
        return None
    figure, (axes,) = _canvas([len(bars)])
    _pairs(axes, bars, figures)
    axes.set_title("Perplexity (lower is better)")
    return figure


def _divergence(kl: Mapping[str, Sequence[float]]) -> Any:
    if not kl:
        return None
    figure, all_axes = _canvas([3] * len(kl))
    for axes, (name, values) in zip(all_axes, kl.items(), strict=True):
        mean = sum(values) / len(values)
        axes.hist(values, bins=min(30, max(5, len(values) // 3)), color=CANDIDATE, edgecolor=_PAPER, linewidth=0.5)
        axes.axvline(mean, color=_INK, linewidth=1, linestyle="--")
        axes.annotate(
            f"mean {mean:.4g}",
            (mean, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -10),
            textcoords="offset points",
        )
        axes.set_title(f"{name}: KL divergence from the baseline, by sequence")
        axes.set_ylabel("sequences")
        axes.set_xlim(left=0)
        axes.yaxis.get_major_locator().set_params(integer=True)
    all_axes[-1].set_xlabel("nats a token")
    return figure


def _tasks(figures: EvaluationFigures) -> Any:
    tasks = [task for task in figures.tasks if task.type != "text"]
    if not tasks:
        return None
    figure, all_axes = _canvas([len(task.candidate) for task in tasks])
    for axes, task in zip(all_axes, tasks, strict=True):
        _pairs(axes, _metrics(task), figures)
        axes.set_title(f"{task.name} ({task.samples:,} samples; higher is better)")
        axes.set_xlim(0, 100)
    all_axes[-1].set_xlabel("out of 100")
    return figure


def _metrics(task: TaskResult) -> Bars:
    def percent(name: str, value: float) -> float:
        return value if name in _OUT_OF_100 else 100 * value

    before = task.baseline or {}
    return [
        (name.replace("_", " "), percent(name, value), percent(name, before[name]) if name in before else None)
        for name, value in task.candidate.items()
    ]


def _pairs(axes: Any, bars: Bars, figures: EvaluationFigures) -> None:
    """Horizontal bars, first on top: the baseline's above the candidate's."""
    both = figures.baseline is not None
    for row, (_, candidate, baseline) in enumerate(bars):
        if baseline is not None:
            _bar(axes, row - _BAR / 2, baseline, color=BASELINE)
        _bar(axes, row + (_BAR / 2 if both else 0), candidate, color=CANDIDATE)
    axes.set_yticks(range(len(bars)), [_short(label, 24) for label, _, _ in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    if axes.get_subplotspec().is_first_row():
        _legend(axes, figures)


def _bar(axes: Any, at: float, value: float, *, color: str) -> None:
    axes.barh(at, value, height=_BAR, color=color)
    label = f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    axes.annotate(label, (value, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


def _legend(axes: Any, figures: EvaluationFigures) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415 - as above

    named = [(figures.baseline, BASELINE), (figures.candidate, CANDIDATE)]
    patches = [Patch(color=color, label=_short(model.name)) for model, color in named if model]
    axes.figure.legend(handles=patches, loc="outside upper right", ncols=2, frameon=False, fontsize=8)


def _short(name: str, most: int = 48) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _canvas(rows: Sequence[int]) -> tuple[Any, list[Any]]:
    """A figure with one plot below the other, as high as its rows ask for."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    heights = [_FRAME + _ROW * count for count in rows]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)
    return figure, list(axes[:, 0])
