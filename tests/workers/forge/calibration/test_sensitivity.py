from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shared.contracts.compression import Scheme
from tests.workers.forge.calibration.given import Given
from workers.forge.calibration.collecting import Collected, Group
from workers.forge.calibration.sensitivity import MOST_DB, STRENGTHS, Sensitivity, measure, smoothing_scales, sqnr_db
from workers.forge.calibration.statistics import ChannelFigures

ALL = tuple(scheme for scheme in Scheme if scheme not in {Scheme.FP16, Scheme.BF16})


def one_layer(weight: torch.Tensor, x: torch.Tensor, *, norm: str | None = None) -> tuple[Any, Collected]:
    """A layer and what was seen of it."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    figures = ChannelFigures.of(x), ChannelFigures.of(x @ weight.T)
    collected = Collected({"a": figures[0]}, {"a": figures[1]}, [Group(("a",), x, norm)], [])
    return {"a": layer}, collected


def measured(layers: Any, collected: Collected, *schemes: Scheme, group_size: int = 128) -> Sensitivity:
    return measure(layers, collected, schemes=schemes or ALL, group_size=group_size, progress=lambda _done: None)


def db(weight: torch.Tensor, x: torch.Tensor, scheme: Scheme, **options: Any) -> float:
    (row,) = measured(*one_layer(weight, x), scheme, **options).table
    return row.sqnr_db[scheme]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


class TestRatio:
    def test_it_is_ten_times_the_logarithm_of_powers(self) -> None:
        y = normal(50, 8)
        assert sqnr_db(y, y * 1.1).item() == pytest.approx(20)
        assert sqnr_db(y, torch.zeros_like(y)).item() == pytest.approx(0)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_what_is_no_number_is_all_noise(self, value: float) -> None:
        y = normal(50, 8)
        assert sqnr_db(y, y.index_fill(0, torch.tensor([3]), value)).item() == -MOST_DB

    def test_it_is_a_number_at_both_ends(self) -> None:
        y, none = normal(50, 8), torch.zeros(50, 8)
        assert sqnr_db(y, y).item() == MOST_DB
        assert sqnr_db(none, none).item() == MOST_DB
        assert sqnr_db(none, y).item() == -MOST_DB


class TestAgainstNumpy:
    """Rounding written down once more, in numpy."""

    weight = normal(48, 256, seed=1) * 0.02
    x = normal(300, 256, seed=2)

    def expected(self, weight: Any, x: Any = None) -> float:
        y = self.x.numpy() @ self.weight.numpy().T
        noise = y - (self.x.numpy() if x is None else x) @ weight.T
        return float(10 * np.log10(np.square(y).sum() / np.square(noise).sum()))

    def rounded(self, values: Any, *, bits: int, axis: int = 1) -> Any:
        """Symmetric, to nearest, one scale a row; compressed-tensors takes half of 2**bits - 1 steps."""
        step = np.abs(values).max(axis, keepdims=True) / ((2**bits - 1) / 2)
        return np.clip(np.rint(values / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step

    def test_w8a16_has_a_scale_a_row(self) -> None:
        right = self.expected(self.rounded(self.weight.numpy(), bits=8))
        assert db(self.weight, self.x, Scheme.W8A16) == pytest.approx(right, abs=0.02)

    @pytest.mark.parametrize("group_size", [32, 128])
    def test_w4a16_has_a_scale_a_group(self, group_size: int) -> None:
        groups = self.weight.numpy().reshape(48, -1, group_size)
        right = self.expected(self.rounded(groups, bits=4, axis=2).reshape(48, 256))
        assert db(self.weight, self.x, Scheme.W4A16, group_size=group_size) == pytest.approx(right, abs=0.02)

    def test_int8_dynamic_has_a_scale_a_token_too(self) -> None:
        right = self.expected(self.rounded(self.weight.numpy(), bits=8), self.rounded(self.x.numpy(), bits=8))
        assert db(self.weight, self.x, Scheme.INT8_DYNAMIC) == pytest.approx(right, abs=0.02)

    @pytest.mark.parametrize(("scheme", "each"), [(Scheme.FP8_DYNAMIC, True), (Scheme.FP8, False)])
    def test_fp8_has_a_scale_a_row_and_token_or_one(self, scheme: Scheme, each: bool) -> None:
        def rounded(values: torch.Tensor) -> Any:
            step = (values.abs().amax(1, keepdim=True) if each else values.abs().amax()) / 448
            return ((values / step).to(torch.float8_e4m3fn).float() * step).numpy()

        right = self.expected(rounded(self.weight), rounded(self.x))
        assert db(self.weight, self.x, scheme) == pytest.approx(right, abs=0.02)


class TestAgainstTheory:
    """Weights alone are rounded, and inputs are white: what is true of the weights is true of the output."""

    x = normal(400, 512, seed=3)

    @pytest.mark.parametrize(("scheme", "bits"), [(Scheme.W8A16, 8), (Scheme.W4A16, 4)])
    def test_six_decibels_a_bit(self, scheme: Scheme, bits: int) -> None:
        """A signal that fills its range evenly has (2**bits - 1)² times the power of its rounding: 6.02 dB a bit."""
        right = 20 * np.log10(2**bits - 1)
        assert db(uniform(64, 512), self.x, scheme) == pytest.approx(right, abs=0.25)

    def test_normal_weights_in_groups_of_128_have_19_decibels(self) -> None:
        """What the threshold of recommendations is derived from."""
        assert db(normal(64, 512), self.x, Scheme.W4A16) == pytest.approx(19.2, abs=0.2)

    def test_outliers_cost_integers_more_than_floats(self) -> None:
        weight, x = normal(64, 512), self.x.clone()
        x[:, 7] *= 300
        weight[:, 7] /= 300
        assert db(weight, x, Scheme.INT8_DYNAMIC) < db(weight, x, Scheme.FP8_DYNAMIC) - 3


class TestTable:
    @pytest.fixture
    def collected(self, seen: Callable[[Given], Collected], given: Given) -> Collected:
        return seen(given)

    def test_every_layer_has_every_scheme_whose_groups_divide_it(self, layers: Any, collected: Collected) -> None:
        found = measured(layers, collected, group_size=32)  # of 64 and 160 columns
        assert [row.layer for row in found.table] == list(layers)
        assert {tuple(row.sqnr_db) for row in found.table} == {ALL}
        assert found.table[0].shape == (64, 64)
        assert found.table[-1].shape == (64, 160)
        assert found.indivisible == {}

    def test_a_group_that_does_not_divide_is_left_out_and_named(self, layers: Any, collected: Collected) -> None:
        found = measured(layers, collected, Scheme.INT8, Scheme.W4A16, group_size=64)
        without = [row.layer for row in found.table if tuple(row.sqnr_db) == ("int8",)]
        assert without == [f"model.layers.{block}.mlp.down_proj" for block in (0, 1)]
        assert found.indivisible == {Scheme.W4A16: without}

    def test_a_model_in_bfloat16_has_about_the_same_figures(
        self, model: Any, layers: Any, collected: Collected
    ) -> None:
        wide = measured(layers, collected, group_size=32).table
        model.to(torch.bfloat16)
        for row, other in zip(measured(layers, collected, group_size=32).table, wide, strict=True):
            assert row.sqnr_db == pytest.approx(other.sqnr_db, abs=1.5)

    def test_cached_keys_and_values_are_rounded_under_fp8_kv(self, layers: Any, collected: Collected) -> None:
        for row in measured(layers, collected, group_size=32).table:
            worse = row.layer.endswith(("k_proj", "v_proj"))
            assert (row.sqnr_db[Scheme.FP8_KV] < row.sqnr_db[Scheme.FP8_DYNAMIC]) is worse

    def test_progress_counts_layers(self, layers: Any, collected: Collected) -> None:
        done: list[int] = []
        measure(layers, collected, schemes=[Scheme.W8A16], group_size=128, progress=done.append)
        assert done == list(range(1, 15))


class TestSmoothing:
    weight = normal(64, 128, seed=4)

    def x_with(self, outlier: float) -> torch.Tensor:
        x = normal(200, 128, seed=5)
        x[:, 3] *= outlier
        return x

    def test_scales_are_those_of_the_paper(self) -> None:
        low, high = -torch.rand(128), torch.rand(128)
        found = smoothing_scales([self.weight, self.weight / 3], low, high, 0.7)
        right = (high - low).numpy() ** 0.7 / (2 * self.weight.abs().amax(0).numpy()) ** 0.3
        assert np.allclose(found, right, rtol=1e-5)

    def test_channels_without_weights_or_inputs_have_usable_scales(self) -> None:
        weight = self.weight.clone()
        weight[:, 0] = 0
        found = smoothing_scales([weight], torch.zeros(128), torch.zeros(128), 0.5)
        assert torch.isfinite(found).all()
        assert (found > 0).all()

    def test_an_outlier_after_a_norm_is_smoothed(self) -> None:
        layers, collected = one_layer(self.weight, self.x_with(100), norm="norm")
        found = measured(layers, collected, Scheme.INT8, Scheme.INT8_DYNAMIC)
        assert found.smoothing is not None
        assert found.smoothing.strength in STRENGTHS
        assert found.smoothing.mean_db[found.smoothing.strength] == max(found.smoothing.mean_db.values())
        (row,) = found.table
        assert row.sqnr_db[Scheme.INT8] > row.sqnr_db[Scheme.INT8_DYNAMIC] + 5
        assert row.sqnr_db[Scheme.INT8] == found.smoothing.mean_db[found.smoothing.strength]

    def test_an_outlier_elsewhere_cannot_be(self) -> None:
        found = measured(*one_layer(self.weight, self.x_with(100)), Scheme.INT8, Scheme.INT8_DYNAMIC)
        assert found.smoothing is None
        assert found.table[0].sqnr_db[Scheme.INT8] == found.table[0].sqnr_db[Scheme.INT8_DYNAMIC]

    def test_nobody_looks_for_a_strength_without_int8(self) -> None:
        layers, collected = one_layer(self.weight, self.x_with(100), norm="norm")
        assert measured(layers, collected, Scheme.INT8_DYNAMIC).smoothing is None

    def test_where_weights_have_the_outliers_none_is_best(self) -> None:
        weight = self.weight.clone()
        weight[:, 3] *= 100
        x = normal(200, 128, seed=5)
        x[:, 3] /= 100  # the channel is as loud as the others in the output: moving it back and forth costs
        smoothing = measured(*one_layer(weight, x, norm="norm"), Scheme.INT8).smoothing
        assert smoothing is not None
        assert smoothing.mean_db[0.3] > smoothing.mean_db[0.8]
