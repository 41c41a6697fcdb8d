from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from shared.contracts.forge import ProgressMessage
from tests.workers.forge.calibration.given import Given
from workers.forge.calibration.collecting import Collected, batches, collect
from workers.forge.refusing import Refused
from workers.forge.telling import Tell

Seen = Callable[[Given], Collected]


def padded(given: Given, lengths: list[int], *, left: bool = False) -> Given:
    """The first tokens of each sample, and padding with tokens that would be seen."""
    ids, mask = np.full_like(given.ids, 99), np.zeros_like(given.mask)
    for row, length in enumerate(lengths):
        where = slice(-length, None) if left else slice(length)
        ids[row, where], mask[row, where] = given.ids[row, :length], 1
    return Given(ids, mask)


def by_hand(model: Any, ids: NDArray[np.int32], layer: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Input and output of a layer, one sample at a time."""
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _module, args, out: kept.append((args[0], out)))
    for row in ids:
        model(torch.from_numpy(row[None].astype(np.int64)))
    hook.remove()
    return np.concatenate([x[0] for x, _ in kept]), np.concatenate([y[0] for _, y in kept])


class TestBatches:
    def test_every_token_comes_once_and_no_padding(self) -> None:
        ids = np.arange(60, dtype=np.int32).reshape(6, 10)
        lengths = np.array([10, 3, 10, 7, 3, 10])
        mask = (np.arange(10) < lengths[:, None]).astype(np.uint8)
        found = list(batches(ids, mask, tokens=20))
        assert [batch.shape for batch in found] == [(2, 10), (1, 10), (1, 7), (2, 3)]
        assert sorted(np.concatenate([batch.ravel() for batch in found])) == sorted(ids[mask.astype(bool)])

    def test_a_sample_longer_than_a_batch_goes_alone(self) -> None:
        ids = np.zeros((2, 50), dtype=np.int32)
        assert [batch.shape for batch in batches(ids, np.ones_like(ids, dtype=np.uint8), tokens=20)] == [(1, 50)] * 2


class TestFigures:
    @pytest.mark.parametrize(
        "layer", ["model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj"]
    )
    def test_they_are_those_of_the_layer_itself(self, seen: Seen, model: Any, given: Given, layer: str) -> None:
        found, (x, y) = seen(given), by_hand(model, given.ids, layer)
        for figures, values in ((found.inputs[layer], x), (found.outputs[layer], y)):
            told = figures.result()
            assert figures.rows == given.ids.size
            assert np.allclose(told["min"], values.min(0), atol=1e-5)
            assert np.allclose(told["max"], values.max(0), atol=1e-5)
            assert np.allclose(told["mean_square"], np.square(values).mean(0), rtol=1e-4)
            right = np.quantile(np.abs(values), 0.99, axis=0, method="inverted_cdf")
            assert np.allclose(told["p99"], right, rtol=1 / 15)

    @pytest.mark.parametrize("left", [False, True])
    def test_padding_does_not_count(self, seen: Seen, given: Given, left: bool) -> None:
        lengths = [24, 5, 1, 24]
        given = Given(given.ids[:4], given.mask[:4])
        found = seen(padded(given, lengths, left=left))
        rows = {name: figures.rows for name, figures in found.inputs.items()}
        assert set(rows.values()) == {sum(lengths)}
        each = [
            seen(Given(given.ids[row : row + 1, :n], given.mask[row : row + 1, :n])) for row, n in enumerate(lengths)
        ]
        for name, figures in found.outputs.items():
            one = each[0].outputs[name].copy()
            for other in each[1:]:
                one.add(other.outputs[name])
            for figure, values in figures.result().items():
                assert torch.allclose(values, one.result()[figure], atol=1e-5, rtol=1e-3 if figure[0] != "p" else 1 / 8)

    def test_every_layer_but_the_head_is_seen(self, seen: Seen, layers: dict[str, nn.Linear], given: Given) -> None:
        found = seen(given)
        assert list(found.inputs) == list(found.outputs) == list(layers)
        assert len(layers) == 14
        assert found.unseen == []

    def test_layers_that_no_token_reaches_are_named(self, model: Any, layers: Any, given: Given) -> None:
        more = layers | {"model.layers.1.mlp.experts.3.up_proj": nn.Linear(64, 8)}
        found = collect(model, more, given.ids, given.mask, device=torch.device("cpu"), tell=Tell(print))
        assert found.unseen == ["model.layers.1.mlp.experts.3.up_proj"]

    def test_progress_is_told_in_samples(self, seen: Seen, given: Given, told: list[Any]) -> None:
        seen(given)
        assert told[0] == ProgressMessage(done=0, total=7, unit="samples")
        assert told[-1] == ProgressMessage(done=7, total=7, unit="samples")

    def test_no_hook_is_left(self, seen: Seen, layers: dict[str, nn.Linear], given: Given) -> None:
        seen(given)
        assert not any(layer._forward_hooks for layer in layers.values())


class TestGroups:
    def test_layers_that_read_one_tensor_belong_together(self, seen: Seen, given: Given) -> None:
        found = [(tuple(name.rpartition(".")[2] for name in group.layers), group.norm) for group in seen(given).groups]
        one = [
            (("q_proj", "k_proj", "v_proj"), "model.layers.{}.input_layernorm"),
            (("o_proj",), None),
            (("gate_proj", "up_proj"), "model.layers.{}.post_attention_layernorm"),
            (("down_proj",), None),
        ]
        assert found == [(names, norm and norm.format(block)) for block in (0, 1) for names, norm in one]

    def test_their_rows_are_rows_of_the_input(self, seen: Seen, model: Any, given: Given) -> None:
        group = seen(given).groups[-1]
        x, _ = by_hand(model, given.ids, group.layers[0])
        assert np.allclose(group.rows, x, atol=1e-5)

    def test_of_many_rows_some_are_kept(self, seen: Seen, monkeypatch: pytest.MonkeyPatch, given: Given) -> None:
        monkeypatch.setattr("workers.forge.calibration.collecting.ROWS", 50)
        assert {abs(len(group.rows) - 50) <= 2 for group in seen(given).groups} == {True}


class TestRefusal:
    @pytest.mark.parametrize("bad", [float("inf"), float("nan")])
    def test_the_first_layer_with_bad_activations_is_named(
        self, seen: Seen, model: Any, given: Given, bad: float
    ) -> None:
        model.model.layers[1].self_attn.v_proj.weight[3, 5] = bad
        with pytest.raises(Refused) as refused:
            seen(given)
        assert refused.value.code == "non_finite_activations"
        assert refused.value.detail == "the output of model.layers.1.self_attn.v_proj has infinities or NaN"
