"""What a batcher reasons about. Times are monotonic seconds, sizes are requests or tokens (prompt and output)."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request is expected to take: the prompt as estimated, the output at its longest."""

    prompt_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Room in the engine's KV cache when the answer is complete."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Load:
    """The rest of the engine, as its latest figures tell."""

    interactive: int = 0  #: requests that are not the lane's own, running or waiting
    waiting: int = 0  #: sequences that the engine has admitted and not begun
    kv_used: float = 0.0  #: share of the KV cache in use, 0–1


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One request that wants a place. Compared by identity."""

    job: Hashable
    cost: Cost
    arrived: float
    due: float = math.inf  #: when its latency objective is missed

    @property
    def tokens(self) -> int:
        return self.cost.tokens


@dataclass(frozen=True, slots=True)
class Running:
    """What the engine holds of ours."""

    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What may be admitted now, after every limit and the brake."""

    places: int
    tokens: float = math.inf


@dataclass(frozen=True, slots=True)
class Admit:
    """Let these in, at least one."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Let nobody in before `until`; null: not before a request arrives or ends."""

    until: float | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that was answered, and what it shared the engine with, averaged over its time there."""

    request: Request
    admitted: float
    ended: float
    mean_requests: float  #: itself included
    mean_tokens: float

    @property
    def service_s(self) -> float:
        return self.ended - self.admitted

    @property
    def latency_s(self) -> float:
        return self.ended - self.request.arrived


class BrakedBy(StrEnum):
    """Why fewer requests of jobs are let in than the engine has places for."""

    INTERACTIVE = "interactive"  #: interactive calls are in flight, or were a moment ago
    WAITING = "waiting"  #: interactive calls are in flight and the engine has a queue of its own
    KV = "kv"  #: the engine's KV cache is nearly full


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """A lane at one moment; counters grow since its start."""

    size: int  #: places for requests of jobs
    places: int  #: of them, those that the brake leaves now
    in_flight: int
    tokens: int  #: expected prompt and output tokens of what is in flight
    waiting: int
    admitted: int  #: counter
    finished: int  #: counter: answered
    queue_wait_s: float  #: counter: seconds that all admitted requests have waited for their turn
    service_s: float  #: counter: seconds from admission to answer, of all that are finished
    batch_size: float  #: requests in flight, averaged over the time in which there were any
    braked_by: BrakedBy | None
    braked_s: float  #: counter: seconds under the brake
