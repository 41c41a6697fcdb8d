"""The brake: how many places jobs may have while somebody waits for an interactive answer.

A step of the engine takes c + b·n seconds with n sequences in it, and an interactive call waits for steps. The brake
learns c/b from the lane's own answers, and leaves jobs as many places as make a step `slowdown` times as long as it
is without them.
"""

import math
from typing import Final

from workers.runtime.batching.fit import Fit
from workers.runtime.batching.values import BrakedBy, Load

HOLD_S: Final = 10.0  # the brake stays on after the last interactive call that was seen: the next one follows
LOOK_S: Final = 0.1  # between two looks at the load while the brake keeps somebody waiting
KV_FULL, KV_FREE = 0.9, 0.8  # where admission stops, and where it goes on
RATIO: Final = 12.0  # c/b before it is known: 11 on two CPU cores (yard-tiny), above 100 on an H200 (8B, bf16)
RATIO_MIN, RATIO_MAX = 4.0, 512.0
LEARNED: Final = 32  # answers from which the ratio is believed
SPREAD: Final = 0.15  # of the mean batch: with less variation c and b cannot be told apart
FADE: Final = 0.98


class Brake:
    """Of one lane of `size` places. `slowdown` null: jobs and interactive calls are equals."""

    def __init__(self, size: int, *, slowdown: float | None) -> None:
        self._size = size
        self._slowdown = slowdown
        self._step = Fit(2)
        self._mean = self._variance = 0.0
        self._seen = -math.inf  #: when an interactive call was in flight last
        self._crowded = False

    @property
    def ratio(self) -> float:
        """c/b: how many sequences double the time of a step."""
        b, c = self._step.theta
        known = self._step.observations >= LEARNED and math.sqrt(self._variance) >= SPREAD * self._mean
        return min(max(c / b, RATIO_MIN), RATIO_MAX) if known and b > 0 else RATIO

    def learn(self, requests: float, step_s: float) -> None:
        """A step took so long with so many of our requests in it."""
        self._step.observe((requests, 1.0), step_s)
        away = requests - self._mean
        self._mean += (1 - FADE) * away if self._mean else requests
        self._variance = FADE * (self._variance + (1 - FADE) * away**2) if self._step.observations > 1 else 0.0

    def places(self, now: float, load: Load | None, in_flight: int) -> tuple[int, BrakedBy | None]:
        """The places that jobs may hold in all, and why they are fewer than `size`."""
        if load is None:
            return self._size, None
        if load.interactive > 0:
            self._seen = now
        if self._kv_full(load, in_flight):
            return 0, BrakedBy.KV
        if self._slowdown is None or now - self._seen > HOLD_S:
            return self._size, None
        if load.interactive > 0 and load.waiting > 0 and in_flight:
            return 0, BrakedBy.WAITING
        return self._beside(max(load.interactive, 1)), BrakedBy.INTERACTIVE

    def _beside(self, interactive: int) -> int:
        """At least one: a job goes on, however busy the engine is."""
        assert self._slowdown is not None
        allowed = int((self._slowdown - 1) * (self.ratio + interactive))
        return max(1, min(self._size - interactive, allowed))

    def _kv_full(self, load: Load, in_flight: int) -> bool:
        """Whether the KV cache is full of something that will end: stale figures must not stop a lane for ever."""
        busy = in_flight > 0 or load.interactive > 0
        self._crowded = busy and load.kv_used > (KV_FREE if self._crowded else KV_FULL)
        return self._crowded
