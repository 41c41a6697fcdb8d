"""What became of a trace under one policy, in figures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.contracts.serving import Policy


@dataclass(frozen=True, slots=True)
class Served:
    """One request's moments, in seconds since the begin of the trace, and its answer's length."""

    arrived: float
    first: float  #: first token
    ended: float
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Score:
    """One policy on one trace. Latencies are from arrival, in seconds."""

    policy: Policy
    rate: float  #: arrivals a second that the trace has
    requests: int
    tokens_per_s: float  #: generated, from the first arrival to the last answer
    latency_p50_s: float
    latency_p95_s: float
    latency_p99_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    attainment: float  #: share of requests answered within the objective
    batch: float  #: mean requests in flight while there were any


def score(served: Sequence[Served], *, policy: Policy, rate: float, slo_s: float, batch: float) -> Score:
    """The figures of a run."""
    latencies = sorted(one.ended - one.arrived for one in served)
    firsts = sorted(one.first - one.arrived for one in served)
    took = max(one.ended for one in served) - min(one.arrived for one in served)
    return Score(
        policy=policy,
        rate=rate,
        requests=len(served),
        tokens_per_s=sum(one.output_tokens for one in served) / took,
        latency_p50_s=quantile(latencies, 0.5),
        latency_p95_s=quantile(latencies, 0.95),
        latency_p99_s=quantile(latencies, 0.99),
        ttft_p50_s=quantile(firsts, 0.5),
        ttft_p95_s=quantile(firsts, 0.95),
        attainment=sum(latency <= slo_s for latency in latencies) / len(latencies),
        batch=batch,
    )


def quantile(figures: Iterable[float], share: float) -> float:
    """The nearest-rank quantile."""
    ranked = sorted(figures)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
