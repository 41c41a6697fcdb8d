import math
from typing import Any

import numpy as np
import pytest
import torch

from workers.forge.calibration import statistics
from workers.forge.calibration.statistics import NAMES, ChannelFigures, spread

COUNT = 5000


def skewed(channels: int = 6) -> torch.Tensor:
    """Channels of very different sizes, with outliers."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(COUNT, channels, generator=generator) * torch.logspace(-3, 2, channels)
    rows[torch.randint(COUNT, (40,), generator=generator)] *= 50
    return rows


class TestOfAllRows:
    def test_moments_are_exact(self) -> None:
        rows = skewed()
        found, right = ChannelFigures.of(rows).result(), rows.numpy()
        assert set(found) == set(NAMES)
        assert np.array_equal(found["min"], right.min(0))
        assert np.array_equal(found["max"], right.max(0))
        assert np.array_equal(found["absmax"], np.abs(right).max(0))
        assert np.allclose(found["mean_square"], np.square(right, dtype=np.float64).mean(0), rtol=1e-5)

    @pytest.mark.parametrize(("name", "share"), [("p99", 0.99), ("p999", 0.999)])
    def test_quantiles_are_known_to_one_part_in_sixteen(self, name: str, share: float) -> None:
        rows = skewed()
        right = np.quantile(np.abs(rows.numpy()), share, axis=0, method="inverted_cdf")
        found = ChannelFigures.of(rows).result()[name].numpy()
        assert (np.abs(found / right - 1) <= 1 / 16 + 1e-6).all()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_every_dtype_is_told_in_float32(self, dtype: torch.dtype) -> None:
        rows = skewed().to(dtype)
        found = ChannelFigures.of(rows).result()
        assert {values.dtype for values in found.values()} == {torch.float32}
        assert torch.equal(found["absmax"], rows.float().abs().amax(0))

    def test_batches_add_up_to_the_whole(self) -> None:
        rows = skewed()
        whole = ChannelFigures.of(rows).result()
        first, *others = (ChannelFigures.of(batch) for batch in rows.split(1234))
        for other in others:
            first.add(other)
        assert first.rows == COUNT
        for name, values in first.result().items():
            assert torch.allclose(values, whole[name], rtol=1e-6), name

    def test_a_copy_is_added_to_alone(self) -> None:
        one = ChannelFigures.of(torch.ones(3, 2))
        one.copy().add(ChannelFigures.of(torch.full((3, 2), 9.0)))
        assert (one.rows, one.result()["max"].tolist()) == (3, [1, 1])

    def test_the_ends_of_the_scale(self) -> None:
        """Zeros, values below 2**-16 and above 2**16: nothing is more than the largest value, or far from it."""
        rows = torch.tensor([[0.0, 1e-7, 1e6]]).expand(100, 3)
        found = ChannelFigures.of(rows).result()["p99"].tolist()
        assert found[0] == 0
        assert found[1] <= 2**-16
        assert found[2] == 1e6

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_shows(self, value: float) -> None:
        rows = skewed()
        assert ChannelFigures.of(rows).finite()
        rows[777, 3] = value
        assert not ChannelFigures.of(rows).finite()


class TestSample:
    def test_all_of_a_few(self) -> None:
        assert spread(0, 1000, 1.5) is None

    def test_it_is_even_wherever_it_begins(self) -> None:
        for start in (0, 17, 100_000):
            chosen = spread(start, 10_000, 0.1)
            assert chosen is not None
            assert abs(len(chosen) - 1000) <= 3
            assert int(chosen.diff().max()) <= 21  # twice the mean distance, and one

    def test_parts_choose_what_the_whole_chooses(self) -> None:
        parts = [chosen + start for start in range(0, 1000, 250) if (chosen := spread(start, 250, 0.1)) is not None]
        assert torch.equal(torch.cat(parts), whole_of(spread(0, 1000, 0.1)))

    def test_it_does_not_keep_step_with_samples(self) -> None:
        """One row in 32 of samples of 256: first tokens are one in 256 of it, not one in 8."""
        chosen = whole_of(spread(0, 128 * 256, 1 / 32))
        assert int((chosen % 256 == 0).sum()) in {3, 4, 5}

    def test_quantiles_come_from_the_counted_rows_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(statistics, "_CHUNK", {"cpu": 7})
        rows = torch.arange(100.0).unsqueeze(1)
        found = ChannelFigures.of(rows, torch.arange(10)).result()
        assert found["p99"].item() == pytest.approx(9, rel=1 / 16)
        assert found["max"].item() == 99


def whole_of(chosen: Any) -> torch.Tensor:
    assert isinstance(chosen, torch.Tensor)
    return chosen
