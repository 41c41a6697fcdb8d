"""`elastic`: as many as a fitted model says that the objective allows, corrected by what was measured.

Latency of a request in the engine = a·tokens + b·requests + c, over what it shared the engine with (in the manner of
BentoML's dispatcher); the limit on requests in flight moves by AIMD on the measured p95 (Clipper, NSDI'17).
"""

from collections import deque
from typing import Final

from shared.contracts.serving import Batching
from workers.runtime.batching.fit import Fit
from workers.runtime.batching.policy import AdmissionPolicy, in_order
from workers.runtime.batching.values import Admit, Finished, Request, Room, Running, Wait
from workers.runtime.batching.waiting import Waiting

LEARNED: Final = 16  # observations from which the fit is believed
WINDOW: Final = 32  # answers of which the p95 is taken
STEP: Final = 8  # answers between two corrections
BACK_OFF: Final = 0.9
GROW: Final = 0.05  # of the limit, at least one request
P95: Final = 0.95
QUEUED: Final = 0.1  # of a late answer's time: from here on it was late because it waited


class Elastic(AdmissionPolicy):
    """Keeps the p95 of `target_latency_ms`, from arrival to answer, where the engine can.

    The time that a request has waited does not shrink the batch that it joins: an engine's throughput grows with its
    batch, so a smaller one would only make those behind it late as well. For the same reason the limit backs off
    when answers are late without having waited, and grows when they are late because they did.
    """

    def __init__(self, batching: Batching, *, size: int) -> None:
        assert batching.target_latency_ms is not None  # the contract asks for it
        self.target_s = batching.target_latency_ms / 1000
        self.limit = float(size)
        self.latency = Fit(3)
        self._size = size
        self._recent: deque[Finished] = deque(maxlen=WINDOW)
        self._since = 0
        self._peak = 0.0

    def decide(self, now: float, waiting: Waiting, running: Running, room: Room) -> Admit | Wait:
        del now  # how long they have waited does not matter, see above
        places = min(room.places, int(self.limit) - running.requests)
        if running.requests == 0:
            places = max(places, 1)
        if places <= 0:
            return Wait()
        fitting = in_order(waiting.turns(), Room(places, room.tokens), alone=not running.requests)
        count = self._largest(fitting, running)
        return Admit(fitting[:count]) if count else Wait()

    def finished(self, done: Finished) -> None:
        self.latency.observe((done.mean_tokens, done.mean_requests, 1.0), done.service_s)
        self._recent.append(done)
        self._peak = max(self._peak, done.mean_requests)
        self._since += 1
        if self._since >= STEP and len(self._recent) >= WINDOW // 2:
            self._correct()

    def _largest(self, fitting: tuple[Request, ...], running: Running) -> int:
        """How many of these keep everybody's predicted end within the objective; at least one when nothing runs."""
        if self.latency.observations < LEARNED:
            return len(fitting)
        tokens = running.tokens
        for count, request in enumerate(fitting):
            tokens += request.tokens
            predicted_s = self.latency.predict((tokens, running.requests + count + 1, 1.0))
            if predicted_s > self.target_s and (count or running.requests):
                return count
        return len(fitting)

    def _correct(self) -> None:
        """Additive increase, multiplicative decrease of the limit."""
        late = [done for done in self._recent if done.latency_s > self.target_s]
        waited_s = sum(done.latency_s - done.service_s for done in late)
        missed = len(late) > (1 - P95) * len(self._recent)
        if missed and waited_s < QUEUED * sum(done.latency_s for done in late):
            self.limit = max(1.0, min(self.limit, self._peak) * BACK_OFF)
            self._recent.clear()  # they were under the old limit
        elif self._peak >= self.limit / 2:  # else it was not the limit that kept them few
            self.limit = min(float(self._size), self.limit + max(1.0, GROW * self.limit))
        self._since, self._peak = 0, 0.0
