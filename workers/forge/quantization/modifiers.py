"""llm-compressor's modifiers, which say when they have done a layer."""

from collections.abc import Callable
from typing import Any

import torch
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from pydantic import PrivateAttr

# B samples of a batch, T tokens of each, N = B × T, K columns of a layer

_SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def _nothing() -> None: ...


class _Telling:
    """Mixed in before a modifier: calls back at the end of each part of the model that it has gone through."""

    _told: Callable[[], None] = PrivateAttr(default=_nothing)

    def call_after_each_layer(self, told: Callable[[], None]) -> None:
        self._told = told

    def on_sequential_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_sequential_epoch_end(*args, **kwargs)  # type: ignore[misc]  # the modifier's
        self._told()


class SmoothQuant(_Telling, SmoothQuantModifier):
    """arXiv 2211.10438: moves outliers of activations into weights."""


class Awq(_Telling, AWQModifier):
    """arXiv 2306.00978: scales up the channels that matter, before rounding."""


class Gptq(_Telling, GPTQModifier):
    """arXiv 2210.17323: makes up for each column's error in those that follow."""

    _rounded: list[str] = PrivateAttr(default_factory=list)

    @property
    def rounded_instead(self) -> list[str]:
        """Names of the layers whose Hessian was singular: they were rounded to nearest."""
        return self._rounded

    def calibrate_module(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        """Add a batch to a layer's Hessian, 2·XᵀX (§2 of the paper), by `add_to_hessian` where that gives the same."""
        x_BTK = args[0]
        known = module in self._hessians  # llm-compressor makes it with the first batch
        if not known or not isinstance(module, torch.nn.Linear) or x_BTK.ndim != 3 or x_BTK.dtype not in _SIXTEEN_BITS:
            super().calibrate_module(module, args, output)
            return
        add_to_hessian(x_BTK.to(self._hessians[module].device), self._hessians[module])
        self._num_samples[module] += len(x_BTK)

    def on_sequential_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_sequential_epoch_end(*args, **kwargs)
        self._rounded = list(self._rtn_fallback_module_names)


class Nearest(_Telling, QuantizationModifier):
    """Rounds to nearest; scales of activations from data where a scheme has fixed ones."""


def add_to_hessian(x_BTK: Any, hessian_KK: Any) -> None:
    """Add 2·XᵀX to a Hessian in fp32, in place, with a GPU's tensor cores where it has some.

    They read TF32, whose 10 bits of mantissa hold every bf16 and fp16 number, and add in fp32: products are exact, and
    only the order of the sum differs. llm-compressor scales the numbers first (0.14, gptq/helpers.py), which takes
    the fp32 units: on an H200 they were most of the time of an 8B model.
    """
    x_NK = x_BTK.flatten(0, 1).to(hessian_KK.dtype)
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        hessian_KK.addmm_(x_NK.t(), x_NK, alpha=2)
    finally:
        matmul.fp32_precision = before


def _leave_unpinned(_self: Any, *_args: Any, **_kwargs: Any) -> None:
    """What AWQ asks for before each batch, for a faster way to a GPU: without one torch refuses (0.14)."""


if not torch.accelerator.is_available():
    IntermediatesCache.pin_memory = _leave_unpinned
