"""What each scheme costs each layer: the noise in the layer's output on inputs that it really had.

Weights are rounded to nearest. GPTQ and AWQ do better on the same grid: a figure is what a scheme reaches at least.

Shape suffixes: R rows (tokens), I and O input and output channels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from compressed_tensors.quantization import QuantizationScheme
from torch import Tensor, nn
from torch.nn import functional

from shared.contracts.compression import LayerSensitivity, Scheme
from workers.forge.calibration.collecting import Collected, Group
from workers.forge.calibration.rounding import round_input, round_weight
from workers.forge.schemes import CACHE, arguments

STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  #: SmoothQuant's, of which the best is looked for
MOST_DB = 200.0  #: what a layer without any noise is given
_SMALLEST_SCALE = 1e-5  # llm-compressor's MINIMUM_SMOOTHING_SCALE


class Smoothing(NamedTuple):
    """SmoothQuant's strength, and the mean of `int8` over the layers after a norm with each, in dB; 0 is none."""

    strength: float
    mean_db: dict[float, float]


class Sensitivity(NamedTuple):
    """The table, SmoothQuant's strength where `int8` is a candidate, and which layers groups do not divide."""

    table: list[LayerSensitivity]
    smoothing: Smoothing | None
    indivisible: dict[Scheme, list[str]]


def sqnr_db(y_RO: Tensor, rounded_RO: Tensor) -> Tensor:
    """10 · log10(Σ y² / Σ (y - y_q)²), a scalar between ±`MOST_DB`; what is zero and stays zero has no noise."""
    signal = y_RO.double().square().sum()
    noise = (y_RO.double() - rounded_RO.double()).square().sum()
    ratio_db = torch.where(noise == 0, MOST_DB, 10 * torch.log10(signal / noise))  # NaN is all noise
    return ratio_db.nan_to_num(nan=-MOST_DB).clamp(-MOST_DB, MOST_DB)


def smoothing_scales(weights: Sequence[Tensor], low_I: Tensor, high_I: Tensor, strength: float) -> Tensor:
    """SmoothQuant's scale of each input channel: inputs are divided by it, columns of weights multiplied.

    s = range(x)^α / (2 · max|w|)^(1-α) (arXiv 2211.10438, with ranges where the paper has largest magnitudes), as
    llm-compressor's `SmoothQuantModifier` computes it.
    """
    range_I = (high_I - low_I).float()
    weight_I = 2 * torch.stack([weight_OI.abs().amax(0) for weight_OI in weights]).amax(0).float()
    scale_I = torch.where(weight_I > 0, range_I**strength / weight_I ** (1 - strength), range_I)
    return scale_I.clamp(min=_SMALLEST_SCALE)


def measure(
    layers: Mapping[str, nn.Linear],
    collected: Collected,
    *,
    schemes: Sequence[Scheme],
    group_size: int,
    progress: Callable[[int], object],
) -> Sensitivity:
    """Measure every layer that tokens reached under every scheme; `progress` is told how many layers are done."""
    candidates = {scheme: arguments(scheme, group_size=group_size, targets=["Linear"]) for scheme in schemes}
    found: dict[str, dict[Scheme, float]] = {}
    smoothed: dict[str, list[float]] = {}
    with torch.inference_mode():
        for group in collected.groups:
            bench = _Bench(group, layers, collected)
            for name in group.layers:
                found[name] = bench.sqnr(name, candidates)
                progress(len(found))
            if Scheme.INT8 in candidates and group.norm is not None:
                smoothed |= bench.smoothed(candidates[Scheme.INT8])
    smoothing = _best(found, smoothed) if Scheme.INT8 in candidates else None
    if smoothing is not None and smoothing.strength > 0:
        for name, values in smoothed.items():
            found[name][Scheme.INT8] = values[STRENGTHS.index(smoothing.strength)]
    order = [name for name in layers if name in found]
    return Sensitivity(
        table=[_row(name, layers[name], found[name], schemes) for name in order],
        smoothing=smoothing,
        indivisible={
            scheme: [name for name in order if scheme not in found[name]]
            for scheme in schemes
            if any(scheme not in found[name] for name in order)
        },
    )


class _Bench:
    """A group's layers with rows of their input."""

    def __init__(self, group: Group, layers: Mapping[str, nn.Linear], collected: Collected) -> None:
        figures = collected.inputs[group.layers[0]]
        self._layers = {name: layers[name] for name in group.layers}
        self._outputs = collected.outputs
        device = next(iter(self._layers.values())).weight.device
        self._x_RI = group.rows.to(device).float()
        self._low_I, self._high_I = figures.low.to(device), figures.high.to(device)
        self._absmax = torch.stack([layer.weight.abs().amax() for layer in self._layers.values()]).amax()

    def sqnr(self, name: str, candidates: Mapping[Scheme, QuantizationScheme]) -> dict[Scheme, float]:
        """dB of each scheme whose groups divide the layer's columns."""
        layer = self._layers[name]
        y_RO = _answer(self._x_RI, layer.weight, layer)
        fitting = {
            scheme: args
            for scheme, args in candidates.items()
            if not (size := args.weights.group_size) or layer.in_features % size == 0
        }
        values = [
            sqnr_db(*self._cached(name, scheme, y_RO, self._rounded(args, layer, layer.weight, self._x_RI)))
            for scheme, args in fitting.items()
        ]
        return dict(zip(fitting, torch.stack(values).tolist(), strict=True)) if values else {}

    def smoothed(self, args: QuantizationScheme) -> dict[str, list[float]]:
        """dB of each layer with each of `STRENGTHS`."""
        weights = [layer.weight for layer in self._layers.values()]
        scales = [smoothing_scales(weights, self._low_I, self._high_I, strength) for strength in STRENGTHS]
        found = {}
        for name, layer in self._layers.items():
            y_RO = _answer(self._x_RI, layer.weight, layer)
            values = [
                sqnr_db(y_RO, self._rounded(args, layer, (layer.weight * s_I).to(layer.weight.dtype), self._x_RI / s_I))
                for s_I in scales
            ]
            found[name] = torch.stack(values).tolist()
        return found

    def _rounded(self, args: QuantizationScheme, layer: nn.Linear, weight_OI: Tensor, x_RI: Tensor) -> Tensor:
        x_q_RI = round_input(x_RI, args.input_activations, low=self._low_I.amin(), high=self._high_I.amax())
        return _answer(x_q_RI, round_weight(weight_OI, args.weights, absmax=self._absmax), layer)

    def _cached(self, name: str, scheme: Scheme, y_RO: Tensor, rounded_RO: Tensor) -> tuple[Tensor, Tensor]:
        """Under `fp8-kv`, keys (before their rotation) and values are rounded too."""
        if scheme is not Scheme.FP8_KV or not name.endswith((".k_proj", ".v_proj")):
            return y_RO, rounded_RO
        figures = self._outputs[name]
        low, high = figures.low.to(y_RO.device).amin(), figures.high.to(y_RO.device).amax()
        return y_RO, round_input(rounded_RO, CACHE, low=low, high=high)


def _answer(x_RI: Tensor, weight_OI: Tensor, layer: nn.Linear) -> Tensor:
    """The layer's output in float32, so that only the scheme makes noise."""
    return functional.linear(x_RI, weight_OI.float(), None if layer.bias is None else layer.bias.float())


def _best(found: Mapping[str, Mapping[Scheme, float]], smoothed: Mapping[str, Sequence[float]]) -> Smoothing | None:
    if not smoothed:
        return None
    columns = {0.0: [found[name][Scheme.INT8] for name in smoothed]}
    columns |= {strength: [values[at] for values in smoothed.values()] for at, strength in enumerate(STRENGTHS)}
    mean_db = {strength: round(sum(values) / len(values), 2) for strength, values in columns.items()}
    return Smoothing(max(mean_db, key=lambda strength: (mean_db[strength], -strength)), mean_db)


def _row(name: str, layer: nn.Linear, found: Mapping[Scheme, float], schemes: Sequence[Scheme]) -> LayerSensitivity:
    return LayerSensitivity(
        layer=name,
        shape=(layer.out_features, layer.in_features),
        sqnr_db={str(scheme): round(found[scheme], 2) for scheme in schemes if scheme in found},
    )
