"""Requests that wait, job by job: turns go round the jobs, so a long job does not stand before a short one."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator

from workers.runtime.batching.values import Request


class Waiting:
    """A queue for each job, and whose turn it is."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[Hashable, OrderedDict[Request, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, request: Request) -> bool:
        return request in self._jobs.get(request.job, ())

    @property
    def oldest(self) -> Request:
        """The request that has waited longest. Raises ValueError when none waits."""
        return min((next(iter(queue)) for queue in self._jobs.values()), key=lambda request: request.arrived)

    def add(self, request: Request) -> None:
        """Queue a request behind those of its job."""
        self._jobs.setdefault(request.job, OrderedDict())[request] = None
        self._count += 1

    def take(self, request: Request) -> None:
        """Remove a request that had its turn: its job's next turn comes after everybody else's."""
        self.withdraw(request)
        if request.job in self._jobs:
            self._jobs.move_to_end(request.job)

    def withdraw(self, request: Request) -> None:
        """Remove a request that does not want its turn any more."""
        queue = self._jobs[request.job]
        del queue[request]
        if not queue:
            del self._jobs[request.job]
        self._count -= 1

    def turns(self, rank: Callable[[Request], float] | None = None) -> Iterator[Request]:
        """All that wait, one of each job in turn; a job's own order is by age, or highest `rank` first."""
        queues = self._jobs.values()
        hands = deque(iter(sorted(queue, key=rank, reverse=True) if rank else queue) for queue in queues)
        while hands:
            hand = hands.popleft()
            if (request := next(hand, None)) is not None:
                yield request
                hands.append(hand)
