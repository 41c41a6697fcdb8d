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

    def on_sequential_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_sequential_epoch_end(*args, **kwargs)
        self._rounded = list(self._rtn_fallback_module_names)


class Nearest(_Telling, QuantizationModifier):
    """Rounds to nearest; scales of activations from data where a scheme has fixed ones."""


def _leave_unpinned(_self: Any, *_args: Any, **_kwargs: Any) -> None:
    """What AWQ asks for before each batch, for a faster way to a GPU: without one torch refuses (0.14)."""


if not torch.accelerator.is_available():
    IntermediatesCache.pin_memory = _leave_unpinned
