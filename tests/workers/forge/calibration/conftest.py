"""A Llama of two layers with random weights, and samples for it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.workers.forge.calibration.given import Given
from workers.forge.calibration.collecting import Collected, collect
from workers.forge.telling import Tell

VOCABULARY = 128


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many as the forge is given here: sums are added up in one order, and tiny tensors wait for nobody."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)


@pytest.fixture
def layers(model: Any) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.model.named_modules(prefix="model") if isinstance(module, nn.Linear)}


@pytest.fixture
def given() -> Given:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (7, 24), dtype=np.int32)
    return Given(ids, np.ones_like(ids, dtype=np.uint8))


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def seen(model: Any, layers: dict[str, nn.Linear], told: list[Any]) -> Callable[[Given], Collected]:
    """What the layers saw of some samples."""

    def _seen(given: Given) -> Collected:
        return collect(model, layers, given.ids, given.mask, device=torch.device("cpu"), tell=Tell(told.append))

    return _seen
