"""Charts of a calibration: PNG files that read as well for three layers as for three hundred."""

import re
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from shared.contracts.compression import LayerSensitivity
from workers.forge.calibration.recommending import FLOOR_DB, MEDIAN_DB

FOLDER = "charts"
_INK, _GREY, _BLUE, _RED = "#2b2f36", "#8a9099", "#3d6b8f", "#b0502e"
_PAPER = "#fdfdfb"
_SCALE = LinearSegmentedColormap.from_list("sqnr", ["#f3e3d3", "#eeede6", "#b3c8d3", "#7299b3", _BLUE])
_DPI = 110
_WRITTEN = 16  # blocks up to which a cell says its number
_KINDS = 24  # kinds of layers that are told apart; models of one block's layers have 4 to 15


class Place(NamedTuple):
    """Where a layer stands: the number of its block, and what it is there (`self_attn.q_proj`)."""

    block: int
    kind: str


def place(layer: str) -> Place:
    """The first number of a name is its block; further ones (experts) are of one kind."""
    parts = layer.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdecimal()]
    if not numbers:
        return Place(0, layer)
    kind = ".".join(part for part in parts[numbers[0] + 1 :] if not part.isdecimal())
    return Place(int(parts[numbers[0]]), kind or parts[0])


def draw(
    folder: Path,
    table: Sequence[LayerSensitivity],
    absmax: Mapping[tuple[str, ...], NDArray[np.float32]],
) -> list[str]:
    """Write the charts into `folder`/charts; their paths below `folder`. A table without a figure has no chart.

    `absmax` has the largest magnitude of each input channel, by the layers that read them.
    """
    figures: dict[str, Callable[[], Figure]] = {"activations": lambda: activations(absmax)}
    if any(row.sqnr_db for row in table):
        of_table = {"sensitivity": lambda: sensitivity(table), "distribution": lambda: distribution(table)}
        figures = of_table | figures
    (folder / FOLDER).mkdir()
    paths = []
    for name, make in figures.items():
        path = f"{FOLDER}/{name}.png"
        make().savefig(folder / path, dpi=_DPI, metadata={"Software": None})
        paths.append(path)
    return paths


def sensitivity(table: Sequence[LayerSensitivity]) -> Figure:
    """A map for each scheme: blocks from left to right, kinds of layers from top to bottom, the worst of a kind."""
    schemes, kinds, blocks = _schemes(table), _kinds(row.layer for row in table), _blocks(row.layer for row in table)
    grids = {scheme: _grid(table, scheme, kinds, blocks) for scheme in schemes}
    known = np.concatenate([grid[~np.isnan(grid)] for grid in grids.values()])
    low, high = min(float(known.min()), FLOOR_DB), max(float(known.max()), MEDIAN_DB + 1)
    figure = _figure(10, 1.0 + len(schemes) * (0.55 + 0.24 * len(kinds)))
    axes = figure.subplots(len(schemes), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (scheme, grid_KB) in zip(axes, grids.items(), strict=True):
        shown = axis.imshow(grid_KB, aspect="auto", cmap=_SCALE, vmin=low, vmax=high, interpolation="nearest")
        axis.patch.set(facecolor=_PAPER, edgecolor="#c4c4be", hatch="////", linewidth=0)  # where there is no figure
        axis.set_title(scheme, loc="left", fontsize=10)
        axis.set_yticks(range(len(kinds)), kinds, fontsize=8)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        _mark_cells(axis, grid_KB, dark=(low + 3 * high) / 4)
    _number_blocks(axes[-1], blocks)
    bar = figure.colorbar(shown, ax=axes, shrink=min(1.0, 2.4 / len(schemes) + 0.2), aspect=30, pad=0.015)
    bar.set_label("signal to quantization noise of the output (dB)")
    bar.outline.set_visible(False)
    gaps = ", hatched: groups do not divide the columns" if any(np.isnan(grid).any() for grid in grids.values()) else ""
    figure.suptitle(f"What each scheme costs each layer (× below {FLOOR_DB:g} dB{gaps})", fontsize=12)
    return figure


def distribution(table: Sequence[LayerSensitivity]) -> Figure:
    """A dot for each layer, a line for the median of each scheme."""
    schemes = _schemes(table)
    figure = _figure(10, 1.4 + 0.55 * len(schemes))
    axis = figure.add_subplot()
    for at, scheme in enumerate(schemes):
        values = np.array([row.sqnr_db[scheme] for row in table if scheme in row.sqnr_db])
        aside = (np.arange(len(values)) * 0.6180339887 % 1 - 0.5) * 0.5  # spread evenly, the same every time
        axis.scatter(values, at + aside, s=14, color=_BLUE, alpha=0.55, linewidths=0)
        axis.plot([median(values)] * 2, [at - 0.36, at + 0.36], color=_INK, linewidth=2)
        axis.annotate(f"{median(values):.1f}", (median(values), at - 0.37), ha="center", va="bottom", fontsize=8)
    for value, words in ((MEDIAN_DB, "median at least"), (FLOOR_DB, "layer at least")):
        axis.axvline(value, color=_RED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axis.annotate(f" {words} {value:g} dB", (value, 1), xycoords=("data", "axes fraction"), fontsize=8, color=_RED,
                      rotation=90, ha="right", va="top")  # fmt: skip
    axis.set_yticks(range(len(schemes)), schemes)
    axis.set_ylim(len(schemes) - 0.4, -0.65)
    axis.set_xlabel("signal to quantization noise of a layer's output (dB), one dot a layer, the median as a line")
    axis.set_title(f"Noise of {len(table)} layers under each scheme", loc="left", fontsize=12)
    axis.grid(axis="x", color="#ebebe6")
    _open(axis)
    return figure


def activations(absmax: Mapping[tuple[str, ...], NDArray[np.float32]]) -> Figure:
    """Largest and median channel of the inputs, block by block: far apart means outliers in few channels."""
    by_kind: dict[str, list[tuple[int, float, float]]] = {}
    for layers, values_C in absmax.items():
        places = [place(layer) for layer in layers]
        kind = ", ".join(dict.fromkeys(_last(each.kind) for each in places))
        by_kind.setdefault(kind, []).append((places[0].block, float(np.median(values_C)), float(values_C.max())))
    shown = dict(list(by_kind.items())[:_KINDS])
    columns = min(2, len(shown))
    figure = _figure(10, 1.0 + 2.1 * ceil(len(shown) / columns))
    grid = figure.subplots(ceil(len(shown) / columns), columns, squeeze=False, sharex=True, sharey=True)
    for axis in grid.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, (kind, points) in zip(grid.flat, shown.items(), strict=False):
        blocks, middle, largest = (np.array(each) for each in zip(*sorted(points), strict=True))
        axis.vlines(blocks, middle, largest, color="#dcdcd6", linewidth=2, zorder=1)
        axis.scatter(blocks, largest, s=16, color=_RED, label="largest channel", zorder=2)
        axis.scatter(blocks, middle, s=16, color=_BLUE, label="median channel", zorder=2)
        axis.set_yscale("symlog", linthresh=1e-6)  # a channel that is always zero has a place too
        axis.set_title(f"input of {kind}", loc="left", fontsize=9)
        axis.grid(axis="y", color="#ebebe6")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        _open(axis)
    for axis in grid[-1]:
        axis.set_xlabel("block")
    for axis in grid[:, 0]:
        axis.set_ylabel("largest |x| seen")
    figure.suptitle("Activations: outliers among input channels", fontsize=12)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=_PAPER)
    FigureCanvasAgg(figure)
    return figure


def _open(axis: Any) -> None:
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_GREY)


def _schemes(table: Sequence[LayerSensitivity]) -> list[str]:
    return list(dict.fromkeys(scheme for row in table for scheme in row.sqnr_db))


def _kinds(layers: Any) -> list[str]:
    return list(dict.fromkeys(place(layer).kind for layer in layers))[:_KINDS]


def _blocks(layers: Any) -> list[int]:
    return sorted({place(layer).block for layer in layers})


def _grid(
    table: Sequence[LayerSensitivity], scheme: str, kinds: Sequence[str], blocks: Sequence[int]
) -> NDArray[np.float64]:
    grid_KB = np.full((len(kinds), len(blocks)), np.nan)
    for row in table:
        at = place(row.layer)
        if scheme in row.sqnr_db and at.kind in kinds:
            cell = (kinds.index(at.kind), blocks.index(at.block))
            grid_KB[cell] = np.fmin(grid_KB[cell], row.sqnr_db[scheme])
    return grid_KB


def _mark_cells(axis: Any, grid_KB: NDArray[np.float64], *, dark: float) -> None:
    for (kind, block), value in np.ndenumerate(grid_KB):
        if np.isnan(value):
            continue
        text = f"{value:.1f}" if grid_KB.shape[1] <= _WRITTEN else ""
        text += " ×" if value < FLOOR_DB else ""
        colour = _RED if value < FLOOR_DB else "white" if value > dark else _INK
        if text:
            axis.annotate(text.strip(), (block, kind), ha="center", va="center", fontsize=7, color=colour)


def _number_blocks(axis: Any, blocks: Sequence[int]) -> None:
    step = max(1, ceil(len(blocks) / 20))
    axis.set_xticks(range(0, len(blocks), step), [str(block) for block in blocks[::step]], fontsize=8)
    axis.set_xlabel("block")


def _last(kind: str) -> str:
    return re.sub(r".*\.", "", kind)
