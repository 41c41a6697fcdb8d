"""A bursty trace: requests that come in storms and lulls, with lengths of heavy tail. The same seed, the same trace."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from workers.runtime.batching.values import Cost

STORM_S, LULL_S = 1.5, 3.5  # mean length of a state of the MMPP (Markov-modulated Poisson process)
STORM, LULL = 2.6, 0.314  # arrivals in it, as a multiple of the mean rate: 0.3 × 2.6 + 0.7 × 0.314 = 1
PROMPT: Final = (24, 0.6, 160)  # tokens: median, sigma and maximum of the lognormal
OUTPUT: Final = (32, 0.8, 192)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the trace, `at` seconds after its begin."""

    at: float
    cost: Cost


def bursty(*, seconds: float, rate: float, seed: int) -> list[Arrival]:
    """Arrivals of `seconds` at `rate` a second on average."""
    chance = random.Random(seed)
    arrivals: list[Arrival] = []
    at, storm = 0.0, False
    until = chance.expovariate(1 / LULL_S)
    while at < seconds:
        gap = chance.expovariate(rate * (STORM if storm else LULL))
        if at + gap < until:
            at += gap
            arrivals.append(Arrival(at, Cost(_length(chance, *PROMPT), _length(chance, *OUTPUT))))
        else:  # a Poisson process has no memory: it begins anew in the next state
            at, storm = until, not storm
            until = at + chance.expovariate(1 / (STORM_S if storm else LULL_S))
    return [arrival for arrival in arrivals if arrival.at < seconds]


def hastened(trace: Sequence[Arrival], factor: float) -> list[Arrival]:
    """The same requests, `factor` times as fast."""
    return [Arrival(arrival.at / factor, arrival.cost) for arrival in trace]


def _length(chance: random.Random, median: float, sigma: float, most: int) -> int:
    return max(1, min(most, round(median * chance.lognormvariate(0, sigma))))
