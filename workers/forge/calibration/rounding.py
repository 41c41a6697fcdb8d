"""Weights and activations as they are after quantization, by compressed-tensors' own arithmetic.

Scales come from `calculate_qparams` over the ranges that llm-compressor's min-max observers see, values from
`fake_quantize`.

Shape suffixes: O and I output and input channels, R rows (tokens), G groups of columns.
"""

from typing import Any

import torch
from compressed_tensors.quantization import DynamicType, QuantizationArgs, QuantizationStrategy, fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams, compute_dynamic_scales_and_zp, generate_gparam
from torch import Tensor


def round_weight(weight_OI: Tensor, args: QuantizationArgs, *, absmax: Tensor) -> Tensor:
    """A weight after rounding to nearest, in its own dtype, as it comes out of a checkpoint.

    `absmax` is the largest magnitude among the layers that an engine fuses with this one: NVFP4's second scale.
    """
    low, high = _range_of_weight(weight_OI, args)
    global_scale = _global_scale(args, absmax)
    scale, _ = calculate_qparams(low, high, args, global_scale)
    return fake_quantize(weight_OI, scale, None, args, global_scale)


def round_input(x_RI: Tensor, args: QuantizationArgs | None, *, low: Tensor, high: Tensor) -> Tensor:
    """Activations after rounding; `low` and `high` are their calibrated range, for scales that are fixed beforehand."""
    if args is None:
        return x_RI
    if args.dynamic in (True, DynamicType.LOCAL):
        global_scale = _global_scale(args, torch.maximum(low.abs(), high.abs()))
        x_1RI = x_RI[None]  # scales of tokens are found along the first two dimensions
        scale, _ = compute_dynamic_scales_and_zp(x_1RI, args, None, global_scale)
        return fake_quantize(x_1RI, scale, None, args, global_scale)[0]
    scale, _ = calculate_qparams(low.reshape(1).float(), high.reshape(1).float(), args)
    return fake_quantize(x_RI, scale, None, args)


def _range_of_weight(weight_OI: Tensor, args: QuantizationArgs) -> tuple[Tensor, Tensor]:
    """llm-compressor's `observers/helpers.py: _flatten_weight` and `observers/min_max.py`, for the strategies here."""
    match args.strategy:
        case QuantizationStrategy.TENSOR:
            return weight_OI.amin().reshape(1), weight_OI.amax().reshape(1)
        case QuantizationStrategy.CHANNEL:
            return weight_OI.amin(1, keepdim=True), weight_OI.amax(1, keepdim=True)
        case QuantizationStrategy.GROUP | QuantizationStrategy.TENSOR_GROUP:
            weight_OGI = weight_OI.unflatten(-1, (-1, args.group_size))
            return weight_OGI.amin(-1), weight_OGI.amax(-1)
    raise AssertionError(args.strategy)


def _global_scale(args: QuantizationArgs, absmax: Tensor) -> Any:
    if args.strategy != QuantizationStrategy.TENSOR_GROUP:
        return None
    largest = absmax.float().reshape(1)
    return generate_gparam(-largest, largest)
