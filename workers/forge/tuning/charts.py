"""PNG charts of a run. Drawn on figures of their own (Agg): no display, no state of pyplot."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from workers.forge.evaluation.charts import BASELINE, CANDIDATE, STYLE
from workers.forge.tuning.following import History, Point

_SIZE: Final = (8.0, 3.2)  # inches
_PLOT: Final = (0.1, 0.16, 0.87, 0.74)  # of the figure; a layout that is computed draws everything twice
_DPI: Final = 120
_PAPER: Final = "#ffffff"
#: file, title, figure of a point in the chart's unit
_CURVES: Final[Sequence[tuple[str, str, Callable[[Point], float | None]]]] = (
    ("learning-rate.png", "Learning rate", lambda point: point.learning_rate),
    ("gradient-norm.png", "Gradient norm, before it is cut", lambda point: point.grad_norm),
    ("speed.png", "Tokens a second", lambda point: point.tokens_per_second),
    ("memory.png", "Highest memory so far (MB)", lambda point: point.memory_bytes / 1e6),
)


def draw(history: History, folder: Path) -> list[str]:
    """Write the curves of a run into a new folder, and name them; none where no step was logged."""
    import matplotlib as mpl  # noqa: PLC0415 - a second, at the end of what takes minutes

    if not history.points:
        return []
    folder.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        drawn = {"loss.png": _loss(history)}
        for name, title, figure in _CURVES:
            drawn[name] = _curve(title, [(point.step, value) for point in history.points if (value := figure(point))])
        for name, canvas in drawn.items():
            canvas.savefig(folder / name, dpi=_DPI, facecolor=_PAPER)
    return list(drawn)


def _loss(history: History) -> Any:
    figure, axes = _canvas("Loss of a token (nats)")
    axes.plot(*_columns([(point.step, point.loss) for point in history.points]), color=BASELINE, label="training")
    if history.validation:
        marker = "o" if len(history.validation) <= 30 else None
        axes.plot(*_columns(history.validation), color=CANDIDATE, marker=marker, markersize=4, label="validation")
        axes.legend(frameon=False, fontsize=8)
    return figure


def _curve(title: str, points: Sequence[tuple[int, float]]) -> Any:
    figure, axes = _canvas(title)
    axes.plot(*_columns(points), color=CANDIDATE)
    axes.set_ylim(bottom=0)
    return figure


def _canvas(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=_SIZE)
    axes = figure.add_axes(_PLOT)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
