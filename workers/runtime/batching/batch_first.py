"""`batch_first`: the largest first, so that the long ones do not run alone at the end; ageing keeps the small alive.

Longest processing time first, packed by decreasing first fit, ends within 4/3 of the best possible time
(Graham 1969).
"""

from collections.abc import Iterator
from typing import Final

from workers.runtime.batching.policy import AdmissionPolicy
from workers.runtime.batching.values import Admit, Request, Room, Running, Wait
from workers.runtime.batching.waiting import Waiting

PATIENCE_S: Final = 30.0  # a request that has waited so long outranks any fresh one, and nobody passes it


class BatchFirst(AdmissionPolicy):
    """Each job's largest request in its turn; score = tokens + ageing × wait, first fit into the token budget."""

    def __init__(self) -> None:
        self._largest = 1  #: tokens of the largest request so far

    def decide(self, now: float, waiting: Waiting, running: Running, room: Room) -> Admit | Wait:
        ageing = self._largest / PATIENCE_S
        ranked = waiting.turns(lambda request: request.tokens + ageing * (now - request.arrived))
        batch = tuple(_first_fit(ranked, room, now=now, alone=not running.requests))
        return Admit(batch) if batch else Wait()

    def arrived(self, request: Request) -> None:
        self._largest = max(self._largest, request.tokens)


def _first_fit(ranked: Iterator[Request], room: Room, *, now: float, alone: bool) -> Iterator[Request]:
    """Whoever fits, in this order; behind a request that has lost patience nobody does, until it fits."""
    places, tokens = room.places, room.tokens
    oversized = alone
    for request in ranked:
        if request.tokens <= tokens or oversized:
            yield request
            places, tokens = places - 1, tokens - request.tokens
        elif now - request.arrived >= PATIENCE_S:
            return
        oversized = False
        if not places or tokens <= 0:
            return
