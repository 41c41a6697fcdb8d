"""Least squares that is learned as figures come in: forgets slowly, and is not carried away by a stray one."""

from collections.abc import Sequence
from typing import Final

FORGET: Final = 0.995  # weight of an observation against the next one: the last 200 or so count
STRAY: Final = 3.0  # mean errors; what lies further off counts less, in proportion (Huber)
FADE: Final = 0.95  # of the mean error
STALE: Final = 8  # observations without solving for θ anew, which takes longer than all else here
RIDGE: Final = 1e-7  # of each moment, so that features which never varied do not divide by zero


class Fit:
    """`y = θ·x`, all θ ≥ 0, over `features` numbers: recursive weighted least squares on decayed moments."""

    def __init__(self, features: int) -> None:
        self._moments = [[0.0] * features for _ in range(features)]
        self._products = [0.0] * features
        self._error = 0.0
        self._theta = (0.0,) * features
        self._solved = 0  # observations that `_theta` knows of
        self.observations = 0

    @property
    def theta(self) -> tuple[float, ...]:
        """The coefficients; zeros before the first observation."""
        if self._solved < self.observations:
            self._theta, self._solved = _solve(self._moments, self._products), self.observations
        return self._theta

    def predict(self, x: Sequence[float]) -> float:
        """`y` at `x`."""
        return sum(a * b for a, b in zip(self.theta, x, strict=True))

    def observe(self, x: Sequence[float], y: float) -> None:
        """Learn from one figure."""
        size = max(abs(y), 1e-6)
        if self.observations - self._solved >= STALE:
            _ = self.theta
        expected = sum(a * b for a, b in zip(self._theta, x, strict=True))
        weight = self._weigh(abs(y - expected) / size) / size**2  # errors count in proportion to the figure
        for i, a in enumerate(x):
            row = self._moments[i]
            for j, b in enumerate(x):
                row[j] = FORGET * row[j] + weight * a * b
            self._products[i] = FORGET * self._products[i] + weight * a * y
        self.observations += 1

    def _weigh(self, error: float) -> float:
        if self.observations < 2 * STALE:
            self._error = max(self._error, error)
            return 1.0
        weight = 1.0 if error <= STRAY * self._error else STRAY * self._error / error
        self._error = FADE * self._error + (1 - FADE) * min(error, 2 * STRAY * self._error)
        return weight


def _solve(moments: Sequence[Sequence[float]], products: Sequence[float]) -> tuple[float, ...]:
    """Solve for θ ≥ 0: the most negative coefficient is held at zero until none is negative."""
    active = [i for i, row in enumerate(moments) if row[i] > 0]
    theta = [0.0] * len(products)
    while active:
        part = _eliminate([[*(moments[i][j] for j in active), products[i]] for i in active])
        if min(part) >= 0:
            for i, value in zip(active, part, strict=True):
                theta[i] = value
            break
        del active[part.index(min(part))]
    return tuple(theta)


def _eliminate(rows: list[list[float]]) -> list[float]:
    """Gauss elimination of a symmetric positive system with its right-hand side as last column."""
    size = len(rows)
    for i in range(size):
        rows[i][i] *= 1 + RIDGE
    for i in range(size):
        for k in range(i + 1, size):
            factor = rows[k][i] / rows[i][i]
            rows[k] = [b - factor * a for a, b in zip(rows[i], rows[k], strict=True)]
    found = [0.0] * size
    for i in reversed(range(size)):
        found[i] = (rows[i][size] - sum(rows[i][j] * found[j] for j in range(i + 1, size))) / rows[i][i]
    return found
