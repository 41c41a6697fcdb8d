"""An engine that is only arithmetic: continuous batching, step by step, in virtual time."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.contracts.serving import Batching
from workers.runtime.batching.batcher import Batcher
from workers.runtime.batching.values import Load, Request
from workers.runtime.comparison.score import Score, Served, score
from workers.runtime.comparison.trace import Arrival

JOBS = 4  # the trace's requests belong to so many jobs, in turn


@dataclass(frozen=True, slots=True)
class Steps:
    """One step takes a·(prompt tokens in it) + b·(sequences in it) + c seconds; about yard-tiny on two CPU cores."""

    a: float = 0.00005
    b: float = 0.0005
    c: float = 0.008
    prompt_tokens: int = 448  #: of one step: longer prompts are cut into several (chunked prefill)


@dataclass(slots=True, eq=False)
class _Sequence:
    arrival: Arrival
    prompt: int  #: tokens to read
    output: int  #: tokens to write
    first: float = math.nan


@dataclass(slots=True)
class Engine:
    """What runs, and when its present step ends."""

    steps: Steps
    running: dict[Request, _Sequence] = field(default_factory=dict)
    joining: dict[Request, _Sequence] = field(default_factory=dict)
    ends: float = math.inf

    def begin(self, now: float) -> None:
        """Start a step, if there is anything to do."""
        self.running |= self.joining
        self.joining.clear()
        read, left = 0, self.steps.prompt_tokens
        for sequence in self.running.values():
            taken = min(sequence.prompt, left)
            sequence.prompt, left, read = sequence.prompt - taken, left - taken, read + taken
        busy = len(self.running)
        self.ends = now + self.steps.a * read + self.steps.b * busy + self.steps.c if busy else math.inf

    def end(self, now: float) -> list[tuple[Request, _Sequence]]:
        """Every sequence whose prompt is read has one token more; those that have all."""
        for sequence in self.running.values():
            if not sequence.prompt:
                sequence.output -= 1
                sequence.first = now if math.isnan(sequence.first) else sequence.first
        done = [(request, sequence) for request, sequence in self.running.items() if sequence.output <= 0]
        for request, _ in done:
            del self.running[request]
        return done


def simulate(
    trace: Sequence[Arrival],
    batching: Batching,
    *,
    size: int,
    rate: float,
    slo_s: float,
    steps: Steps | None = None,
    load: Callable[[], Load | None] = lambda: None,
) -> Score:
    """Replay a trace through a policy, before an engine of `size` places."""
    batcher = Batcher(batching, size=size, load=load)
    served = list(Run(batcher, Engine(steps or Steps()), trace).all())
    mean = batcher.figures(max(one.ended for one in served)).batch_size
    return score(served, policy=batching.policy, rate=rate, slo_s=slo_s, batch=mean)


class Run:
    """One trace on its way through a batcher and an engine. `watch` sees the batcher after every event."""

    def __init__(
        self,
        batcher: Batcher,
        engine: Engine,
        trace: Sequence[Arrival],
        *,
        watch: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._batcher = batcher
        self._engine = engine
        self._coming = deque(enumerate(trace))
        self._watch = watch
        self._asked: dict[Request, Arrival] = {}
        self._again = math.inf

    def all(self) -> list[Served]:
        """Everything that was served, in the order of its end. Raises AssertionError when the policy stalls."""
        served: list[Served] = []
        while self._coming or self._asked or self._engine.running or self._engine.joining:
            arrives = self._coming[0][1].at if self._coming else math.inf
            now = min(arrives, self._engine.ends, self._again)
            assert now < math.inf, "requests wait, and nothing will wake the policy"
            if now == self._engine.ends:
                served += self._step(now)
            elif now == arrives:
                number, arrival = self._coming.popleft()
                request = self._batcher.offer(number % JOBS, arrival.cost, now=now)
                self._asked[request] = arrival
            self._admit(now)
            self._watch(now)
        return served

    def _step(self, now: float) -> list[Served]:
        done = self._engine.end(now)
        for request, sequence in done:
            self._batcher.answered(request, now=now, output_tokens=sequence.arrival.cost.output_tokens)
        self._engine.ends = math.inf
        return [
            Served(sequence.arrival.at, sequence.first, now, sequence.arrival.cost.output_tokens)
            for _, sequence in done
        ]

    def _admit(self, now: float) -> None:
        admitted, again = self._batcher.admit(now)
        self._again = math.inf if again is None else max(again, now)
        for request in admitted:
            arrival = self._asked.pop(request)
            cost = arrival.cost
            self._engine.joining[request] = _Sequence(arrival, cost.prompt_tokens, cost.output_tokens)
        if self._engine.ends == math.inf:
            self._engine.begin(now)
