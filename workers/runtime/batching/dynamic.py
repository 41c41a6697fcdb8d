"""`dynamic`: a batch joins the engine as soon as it is worth it, or its oldest request has waited long enough."""

import math
from typing import Final

from shared.contracts.serving import Batching
from workers.runtime.batching.fit import Fit
from workers.runtime.batching.policy import AdmissionPolicy, Arrivals, in_order
from workers.runtime.batching.values import Admit, Finished, Request, Room, Running, Wait
from workers.runtime.batching.waiting import Waiting

JOIN_S: Final = 0.002  # what a batch of its own costs the engine: a pass of its scheduler, the start of a prefill


class Dynamic(AdmissionPolicy):
    """A batch goes when its oldest request has waited `max_wait_ms` or has no slack left.

    From `min_batch_size` on it goes when no more fit, or when the next arrival is not worth waiting for: it
    is while `waiting × mean gap` (seconds lost) is below `JOIN_S` (seconds saved): in a storm.
    """

    def __init__(self, batching: Batching) -> None:
        self._min = batching.min_batch_size
        self._max_wait_s = batching.max_wait_ms / 1000
        self._arrivals = Arrivals()
        self._latency = Fit(2)

    def decide(self, now: float, waiting: Waiting, running: Running, room: Room) -> Admit | Wait:
        batch = in_order(waiting.turns(), room, alone=not running.requests)
        if not batch:
            return Wait()
        due = self._due(waiting.oldest, running)
        if now >= due:
            return Admit(batch)
        if len(batch) < self._min:
            return Wait(due)
        if len(batch) == room.places or len(batch) < len(waiting):
            return Admit(batch)
        held = self._held_until(now, len(waiting))
        return Admit(batch) if held is None else Wait(min(due, held))

    def arrived(self, request: Request) -> None:
        self._arrivals.note(request.arrived)

    def finished(self, done: Finished) -> None:
        if done.request.due < math.inf:  # nobody asks for a prediction otherwise
            self._latency.observe((done.mean_requests, 1.0), done.service_s)

    def _due(self, oldest: Request, running: Running) -> float:
        """When the oldest request must go: it has waited long enough, or its objective leaves no more time."""
        waited = oldest.arrived + self._max_wait_s
        if oldest.due == math.inf:
            return waited
        return min(waited, oldest.due - self._latency.predict((running.requests + 1, 1.0)))

    def _held_until(self, now: float, waiting: int) -> float | None:
        """When the next arrival is overdue; null when it is, or is not worth waiting for."""
        gap_s, by = self._arrivals.gap_s, self._arrivals.next_by()
        if gap_s is None or by is None or now >= by or waiting * gap_s >= JOIN_S:
            return None
        return by
