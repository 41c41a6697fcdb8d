"""What the fit learns, and what it does not let itself be told."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.batching.fit import Fit


def learn(theta: tuple[float, float, float], *, noise: float = 0.0, strays: float = 0.0, count: int = 400) -> Fit:
    """A fit that has seen batches of 1–64 requests with 20–400 tokens each."""
    chance, fit = random.Random(7), Fit(3)
    for _ in range(count):
        requests = chance.randint(1, 64)
        x = (float(sum(chance.randint(20, 400) for _ in range(requests))), float(requests), 1.0)
        y = sum(a * b for a, b in zip(theta, x, strict=True)) * (1 + chance.uniform(-noise, noise))
        fit.observe(x, y * 10 if chance.random() < strays else y)
    return fit


class TestFit:
    @given(st.floats(1e-6, 1e-3), st.floats(1e-4, 0.1), st.floats(1e-3, 1.0))
    def test_it_recovers_what_made_the_figures(self, a: float, b: float, c: float) -> None:
        fit = learn((a, b, c), count=60)
        assert fit.predict((5000.0, 20.0, 1.0)) == pytest.approx(a * 5000 + b * 20 + c, rel=0.01)

    def test_it_recovers_the_coefficients_through_noise(self) -> None:
        a, b, c = learn((0.0001, 0.02, 0.3), noise=0.1).theta
        assert a == pytest.approx(0.0001, rel=0.2)
        assert b == pytest.approx(0.02, rel=0.3)
        assert c == pytest.approx(0.3, rel=0.2)

    def test_a_stray_figure_now_and_then_does_little(self) -> None:
        fit, x = learn((0.0001, 0.02, 0.3), noise=0.1, strays=0.03), (6000.0, 30.0, 1.0)
        assert fit.predict(x) == pytest.approx(1.5, rel=0.25)

    def test_it_follows_an_engine_that_changes(self) -> None:
        fit = learn((0.0001, 0.02, 0.3))
        for requests in list(range(1, 65)) * 10:
            fit.observe((200.0 * requests, float(requests), 1.0), 2 * (0.02 + 0.02) * requests + 0.6)
        assert fit.predict((6000.0, 30.0, 1.0)) == pytest.approx(3.0, rel=0.1)

    @given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 512), st.floats(0, 100)), max_size=30))
    def test_no_coefficient_is_negative_whatever_it_sees(self, seen: list[tuple[int, int, float]]) -> None:
        fit = Fit(3)
        for tokens, requests, seconds in seen:
            fit.observe((float(tokens), float(requests), 1.0), seconds)
        assert all(value >= 0 for value in fit.theta)

    def test_the_same_batch_over_and_over_is_no_division_by_zero(self) -> None:
        fit = Fit(2)
        for _ in range(50):
            fit.observe((64.0, 1.0), 0.5)
        assert fit.predict((64.0, 1.0)) == pytest.approx(0.5, rel=0.01)
