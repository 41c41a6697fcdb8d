"""A batcher: who waits, who is in the engine, whom the policy and the brake let in. No clock, no loop, no socket."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from shared.contracts.serving import Batching, Policy
from workers.runtime.batching.batch_first import BatchFirst
from workers.runtime.batching.brake import LOOK_S, Brake
from workers.runtime.batching.dynamic import Dynamic
from workers.runtime.batching.elastic import Elastic
from workers.runtime.batching.policy import AdmissionPolicy
from workers.runtime.batching.static import Static
from workers.runtime.batching.values import (
    Admit,
    BrakedBy,
    Cost,
    Finished,
    LaneFigures,
    Load,
    Request,
    Room,
    Running,
)
from workers.runtime.batching.waiting import Waiting

USUAL: Final = Cost(128, 128)  # of a request that does not say, before any did
FADE: Final = 0.9  # of the usual cost


def policy_of(batching: Batching, *, size: int) -> AdmissionPolicy:
    """The policy that a model asks for, on an engine with `size` places."""
    match batching.policy:
        case Policy.STATIC:
            return Static(batching)
        case Policy.DYNAMIC:
            return Dynamic(batching)
        case Policy.ELASTIC:
            return Elastic(batching, size=size)
        case Policy.BATCH_FIRST:
            return BatchFirst()


@dataclass(frozen=True, slots=True)
class _Flight:
    """A request in the engine, and the meter when it went in."""

    admitted: float
    request_seconds: float
    token_seconds: float


class Batcher:
    """The requests of one engine's jobs. Every method is told the time, which never goes back."""

    def __init__(self, batching: Batching, *, size: int, load: Callable[[], Load | None] = lambda: None) -> None:
        self.size = size
        self._most = min(size, batching.max_batch_size or size)
        self._most_tokens = batching.max_batch_tokens or math.inf
        self._target_s = math.inf if batching.target_latency_ms is None else batching.target_latency_ms / 1000
        self._policy = policy_of(batching, size=self._most)
        self._brake = Brake(self._most, slowdown=batching.interactive_slowdown)
        self._load = load
        self._waiting = Waiting()
        self._flights: dict[Request, _Flight] = {}
        self._tokens = 0
        self._usual = USUAL
        self._meter = _Meter()
        self._braked_by: BrakedBy | None = None
        self._places = self._most
        self._admitted = self._finished = 0
        self._queue_wait_s = self._service_s = 0.0

    @property
    def running(self) -> Running:
        return Running(len(self._flights), self._tokens)

    def offer(self, job: Hashable, cost: Cost | None, *, now: float) -> Request:
        """Queue a request of a job; one without a cost is taken for an average one."""
        if cost is not None:
            self._usual = _between(self._usual, cost)
        request = Request(job, cost or self._usual, now, now + self._target_s)
        self._waiting.add(request)
        self._policy.arrived(request)
        return request

    def withdraw(self, request: Request) -> None:
        """A request that waits does not want its turn any more."""
        self._waiting.withdraw(request)

    def admit(self, now: float) -> tuple[list[Request], float | None]:
        """Who goes in now, and when to ask again at the latest; null: when a request arrives or ends."""
        admitted: list[Request] = []
        while self._waiting:
            room = self._room(now)
            if room.places <= 0 or room.tokens <= 0:
                return admitted, now + LOOK_S if self._braked_by else None
            decision = self._policy.decide(now, self._waiting, self.running, room)
            if not isinstance(decision, Admit):
                return admitted, decision.until
            for request in decision.requests:
                self._enter(request, now)
            admitted += decision.requests
        return admitted, None

    def answered(self, request: Request, *, now: float, output_tokens: int | None = None) -> None:
        """A request has its answer; `output_tokens` are those that it has, null when it has none or nobody counted."""
        flight = self._leave(request, now)
        spent = now - flight.admitted
        if spent <= 0:
            return
        requests, tokens = self._meter.since(flight.request_seconds, flight.token_seconds)
        done = Finished(request, flight.admitted, now, requests / spent, tokens / spent)
        self._policy.finished(done)
        if output_tokens:
            self._brake.learn(done.mean_requests, spent / output_tokens)
        self._finished += 1
        self._service_s += spent

    def dropped(self, request: Request, *, now: float) -> None:
        """A request left the engine without an answer: nothing is learned from it."""
        self._leave(request, now)

    def figures(self, now: float) -> LaneFigures:
        """The batcher at this moment."""
        self._look(now)
        self._tick(now)
        return LaneFigures(
            size=self.size,
            places=self._places,
            in_flight=len(self._flights),
            tokens=self._tokens,
            waiting=len(self._waiting),
            admitted=self._admitted,
            finished=self._finished,
            queue_wait_s=self._queue_wait_s,
            service_s=self._service_s,
            batch_size=self._meter.mean_requests,
            braked_by=self._braked_by,
            braked_s=self._meter.braked_s,
        )

    def _room(self, now: float) -> Room:
        self._look(now)
        return Room(self._places - len(self._flights), self._most_tokens - self._tokens)

    def _look(self, now: float) -> None:
        self._tick(now)
        self._places, self._braked_by = self._brake.places(now, self._load(), len(self._flights))

    def _enter(self, request: Request, now: float) -> None:
        self._tick(now)
        self._waiting.take(request)
        self._flights[request] = _Flight(now, self._meter.request_seconds, self._meter.token_seconds)
        self._tokens += request.tokens
        self._admitted += 1
        self._queue_wait_s += now - request.arrived

    def _leave(self, request: Request, now: float) -> _Flight:
        self._tick(now)
        self._tokens -= request.tokens
        return self._flights.pop(request)

    def _tick(self, now: float) -> None:
        """Account for the time up to now, before anything changes."""
        self._meter.advance(now, self.running, braked=self._braked_by is not None)


class _Meter:
    """Integrals over time of what is in the engine."""

    def __init__(self) -> None:
        self.request_seconds = self.token_seconds = self.busy_s = self.braked_s = 0.0
        self._since: float | None = None

    @property
    def mean_requests(self) -> float:
        return self.request_seconds / self.busy_s if self.busy_s else 0.0

    def advance(self, now: float, running: Running, *, braked: bool) -> None:
        """Account for the time since the last change, in which this ran."""
        spent = now - self._since if self._since is not None else 0.0
        self._since = now
        self.request_seconds += spent * running.requests
        self.token_seconds += spent * running.tokens
        self.busy_s += spent if running.requests else 0.0
        self.braked_s += spent if braked else 0.0

    def since(self, request_seconds: float, token_seconds: float) -> tuple[float, float]:
        """What the integrals have grown by."""
        return self.request_seconds - request_seconds, self.token_seconds - token_seconds


def _between(usual: Cost, cost: Cost) -> Cost:
    return Cost(
        round(FADE * usual.prompt_tokens + (1 - FADE) * cost.prompt_tokens),
        round(FADE * usual.output_tokens + (1 - FADE) * cost.output_tokens),
    )
