"""The one interface of batching policies, and what they share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import islice
from typing import Final

from workers.runtime.batching.values import Admit, Finished, Request, Room, Running, Wait
from workers.runtime.batching.waiting import Waiting

GAP_FADE: Final = 0.8  # of the mean time between arrivals: the last five count


class AdmissionPolicy(ABC):
    """When waiting requests go to the engine. Has no clock of its own; is told the time."""

    @abstractmethod
    def decide(self, now: float, waiting: Waiting, running: Running, room: Room) -> Admit | Wait:
        """Who goes in now, or when to ask again. `waiting` is not empty and `room` has a place.

        The answer respects `room`; a request larger than all of its tokens goes in alone, when nothing runs.
        """

    def arrived(self, request: Request) -> None:  # noqa: B027 - a policy that learns nothing says nothing
        """A request began to wait."""

    def finished(self, done: Finished) -> None:  # noqa: B027 - as above
        """A request was answered."""


class Arrivals:
    """The time between arrivals, as a fading mean."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.gap_s: float | None = None

    def note(self, now: float) -> None:
        """A request arrived."""
        if self.last is not None:
            gap = now - self.last
            self.gap_s = gap if self.gap_s is None else GAP_FADE * self.gap_s + (1 - GAP_FADE) * gap
        self.last = now

    def next_by(self) -> float | None:
        """By when the next one ought to have come: two mean gaps after the last; null when nothing is known."""
        if self.last is None or self.gap_s is None:
            return None
        return self.last + 2 * self.gap_s


def in_order(requests: Iterable[Request], room: Room, *, alone: bool) -> tuple[Request, ...]:
    """As many as fit, in this order: nobody passes a request that does not fit.

    With `alone`, nothing runs, and a first request that never fits goes by itself.
    """
    chosen: list[Request] = []
    tokens = room.tokens
    for request in islice(requests, room.places):
        if request.tokens > tokens and (chosen or not alone):
            break
        chosen.append(request)
        tokens -= request.tokens
    return tuple(chosen)
