"""`static`: whole batches. The next one starts when the last has ended."""

from shared.contracts.serving import Batching
from workers.runtime.batching.policy import AdmissionPolicy, in_order
from workers.runtime.batching.values import Admit, Room, Running, Wait
from workers.runtime.batching.waiting import Waiting


class Static(AdmissionPolicy):
    """A full batch at once, a smaller one when its oldest request has waited `max_wait_ms`."""

    def __init__(self, batching: Batching) -> None:
        self._max_wait_s = batching.max_wait_ms / 1000

    def decide(self, now: float, waiting: Waiting, running: Running, room: Room) -> Admit | Wait:
        if running.requests:
            return Wait()
        batch = in_order(waiting.turns(), room, alone=True)
        full = len(batch) == room.places or len(batch) < len(waiting)
        due = waiting.oldest.arrived + self._max_wait_s
        return Admit(batch) if full or now >= due else Wait(due)
