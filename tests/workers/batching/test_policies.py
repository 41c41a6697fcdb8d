"""Every policy on any trace, and each one's own promise."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.contracts.serving import Batching, Policy
from workers.runtime.batching.batch_first import PATIENCE_S
from workers.runtime.batching.batcher import Batcher, policy_of
from workers.runtime.batching.elastic import Elastic
from workers.runtime.batching.values import Admit, Cost, Finished, Request, Room, Running, Wait
from workers.runtime.batching.waiting import Waiting
from workers.runtime.comparison.simulation import Engine, Run, Steps, simulate
from workers.runtime.comparison.trace import Arrival, bursty

COSTS = st.builds(Cost, st.integers(0, 300), st.integers(1, 300))
TRACES = st.lists(st.builds(Arrival, st.floats(0, 20), COSTS), min_size=1, max_size=60).map(
    lambda trace: sorted(trace, key=lambda arrival: arrival.at)
)


@st.composite
def batchings(draw: st.DrawFn, policy: Policy | None = None) -> Batching:
    """Any choice of a model's owner."""
    most = draw(st.none() | st.integers(1, 40))
    return Batching(
        policy=policy or draw(st.sampled_from(Policy)),
        max_batch_size=most,
        min_batch_size=draw(st.integers(1, most or 40)),
        max_wait_ms=draw(st.floats(0, 2000)),
        target_latency_ms=draw(st.floats(1, 20_000)),
        max_batch_tokens=draw(st.none() | st.integers(256, 2000)),
    )


def waiting_for(*tokens: int, at: float = 0.0) -> Waiting:
    """Requests of one job that came together."""
    waiting = Waiting()
    for count in tokens:
        waiting.add(Request("job", Cost(output_tokens=count), at, at + 2.0))
    return waiting


def sizes(decision: Admit | Wait) -> list[int]:
    assert isinstance(decision, Admit)
    return [request.tokens for request in decision.requests]


class TestEveryPolicy:
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(batchings(), st.integers(1, 32), TRACES)
    def test_everybody_is_served_and_no_limit_is_exceeded(
        self, batching: Batching, size: int, trace: list[Arrival]
    ) -> None:
        batcher = Batcher(batching, size=size)
        most, budget = min(size, batching.max_batch_size or size), batching.max_batch_tokens or math.inf

        def watch(_: float) -> None:
            running = batcher.running
            assert running.requests <= most
            assert running.tokens <= budget or running.requests == 1  # larger than the budget: alone

        served = Run(batcher, Engine(Steps()), trace, watch=watch).all()
        assert len(served) == len(trace)
        assert batcher.running == Running(0, 0)

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(batchings(), TRACES)
    def test_nobody_is_held_while_the_engine_is_empty_for_longer_than_max_wait(
        self, batching: Batching, trace: list[Arrival]
    ) -> None:
        batcher = Batcher(batching, size=8)
        idle_since: list[float] = []

        def watch(now: float) -> None:
            if batcher.running.requests or not batcher.figures(now).waiting:
                idle_since.clear()
                return
            idle_since.append(now)
            assert now - idle_since[0] <= batching.max_wait_ms / 1000 + 1e-6

        Run(batcher, Engine(Steps()), trace, watch=watch).all()

    @pytest.mark.parametrize("policy", Policy)
    def test_a_job_of_one_line_is_not_behind_a_job_of_a_hundred(self, policy: Policy) -> None:
        batching = Batching(policy=policy, target_latency_ms=60_000, max_wait_ms=0)
        batcher = Batcher(batching, size=4)
        for _ in range(100):
            batcher.offer("large", Cost(10, 100), now=0.0)
        first, _ = batcher.admit(0.0)
        small = batcher.offer("small", Cost(10, 10), now=0.1)
        for request in first:
            batcher.answered(request, now=1.0)
        second, _ = batcher.admit(1.0)
        assert small in second


class TestStatic:
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(batchings(policy=Policy.STATIC), TRACES)
    def test_batches_never_overlap(self, batching: Batching, trace: list[Arrival]) -> None:
        batcher = Batcher(batching, size=16)
        admitted, before = [0], [0]

        def watch(now: float) -> None:
            figures = batcher.figures(now)
            if figures.admitted > admitted[0]:
                assert before[0] == 0 or figures.in_flight == figures.admitted - admitted[0]
            admitted[0], before[0] = figures.admitted, figures.in_flight

        Run(batcher, Engine(Steps()), trace, watch=watch).all()

    def test_a_part_of_a_batch_goes_after_max_wait(self) -> None:
        policy = policy_of(Batching(policy=Policy.STATIC, max_wait_ms=100), size=8)
        assert policy.decide(0.05, waiting_for(1, 1), Running(), Room(8)) == Wait(0.1)
        assert sizes(policy.decide(0.1, waiting_for(1, 1), Running(), Room(8))) == [1, 1]

    def test_a_full_one_goes_at_once(self) -> None:
        policy = policy_of(Batching(policy=Policy.STATIC, max_wait_ms=100), size=2)
        assert sizes(policy.decide(0.0, waiting_for(1, 2, 3), Running(), Room(2))) == [1, 2]


class TestDynamic:
    def test_by_default_nobody_waits_for_company(self) -> None:
        policy = policy_of(Batching(), size=8)
        assert sizes(policy.decide(0.0, waiting_for(5), Running(3, 30), Room(5))) == [5]

    def test_fewer_than_the_least_wait_for_max_wait(self) -> None:
        policy = policy_of(Batching(min_batch_size=4, max_wait_ms=50), size=8)
        assert policy.decide(0.0, waiting_for(1, 1, 1), Running(), Room(8)) == Wait(0.05)
        assert len(sizes(policy.decide(0.0, waiting_for(1, 1, 1, 1), Running(), Room(8)))) == 4
        assert len(sizes(policy.decide(0.05, waiting_for(1), Running(), Room(8)))) == 1

    def test_in_a_storm_a_batch_forms_first(self) -> None:
        policy, waiting = policy_of(Batching(), size=8), Waiting()
        for number in range(4):
            request = Request("job", Cost(1, 1), number * 0.0001)
            waiting.add(request)
            policy.arrived(request)
        decision = policy.decide(0.0003, waiting, Running(), Room(8))
        assert isinstance(decision, Wait)
        assert decision.until == pytest.approx(0.0005)
        assert len(sizes(policy.decide(0.0005, waiting, Running(), Room(8)))) == 4

    def test_a_request_without_slack_does_not_wait(self) -> None:
        policy = policy_of(Batching(min_batch_size=8, max_wait_ms=1500, target_latency_ms=2000), size=8)
        for _ in range(20):
            policy.finished(Finished(Request("job", Cost(1, 1), 0.0, 2.0), 0.0, 1.2, 1.0, 2.0))
        decision = policy.decide(0.0, waiting_for(1), Running(), Room(8))
        assert isinstance(decision, Wait)
        assert decision.until == pytest.approx(0.8)
        assert sizes(policy.decide(0.81, waiting_for(1), Running(), Room(8))) == [1]

    def test_nobody_passes_a_request_that_does_not_fit(self) -> None:
        policy = policy_of(Batching(max_batch_tokens=256), size=8)
        assert policy.decide(0.0, waiting_for(200, 10), Running(1, 100), Room(7, 156)) == Wait()


class TestElastic:
    @staticmethod
    def policy(target_s: float, *, size: int = 64) -> Elastic:
        found = policy_of(Batching(policy=Policy.ELASTIC, target_latency_ms=target_s * 1000), size=size)
        assert isinstance(found, Elastic)
        return found

    @staticmethod
    def answer(policy: Elastic, *, count: int, requests: int, service_s: float, waited_s: float = 0.0) -> None:
        for _ in range(count):
            request = Request("job", Cost(0, 100), 0.0)
            policy.finished(Finished(request, waited_s, waited_s + service_s, requests, 100.0 * requests))

    def test_it_admits_what_the_model_says_and_no_more(self) -> None:
        policy = self.policy(1.0)
        for requests in (1, 4, 8, 12, 16):
            self.answer(policy, count=8, requests=requests, service_s=0.1 + 0.03 * requests)
        decision = policy.decide(0.0, waiting_for(*[100] * 60), Running(), Room(64))
        assert len(sizes(decision)) == pytest.approx(30, abs=1)
        assert policy.decide(0.0, waiting_for(100), Running(31, 3100), Room(33)) == Wait()

    def test_an_objective_out_of_reach_still_lets_one_in(self) -> None:
        policy = self.policy(0.05)
        self.answer(policy, count=40, requests=4, service_s=1.0)
        assert len(sizes(policy.decide(0.0, waiting_for(100, 100), Running(), Room(64)))) == 1

    def test_it_backs_off_when_answers_are_late(self) -> None:
        policy = self.policy(1.0)
        self.answer(policy, count=160, requests=64, service_s=1.5)
        assert policy.limit < 64 * 0.9**5

    def test_it_recovers_step_by_step(self) -> None:
        policy = self.policy(1.0)
        self.answer(policy, count=160, requests=64, service_s=1.5)
        low = policy.limit
        self.answer(policy, count=32, requests=int(low), service_s=0.5)
        assert low < policy.limit < low * 1.5

    def test_a_queue_is_not_answered_with_a_smaller_batch(self) -> None:
        policy = self.policy(1.0)
        self.answer(policy, count=160, requests=64, service_s=0.6, waited_s=2.0)
        assert policy.limit == 64


class TestBatchFirst:
    def test_the_largest_goes_first_and_smaller_ones_fill_up(self) -> None:
        policy = policy_of(Batching(policy=Policy.BATCH_FIRST), size=8)
        decision = policy.decide(0.0, waiting_for(100, 700, 500, 200), Running(), Room(8, 1000))
        assert sizes(decision) == [700, 200, 100]

    def test_age_outranks_size_in_the_end(self) -> None:
        policy, waiting = policy_of(Batching(policy=Policy.BATCH_FIRST), size=8), Waiting()
        small = Request("job", Cost(0, 10), 0.0)
        for request in (small, *(Request("job", Cost(0, 1000), PATIENCE_S) for _ in range(4))):
            waiting.add(request)
            policy.arrived(request)
        decision = policy.decide(PATIENCE_S, waiting, Running(), Room(1))
        assert decision == Admit((small,))

    def test_nobody_passes_a_large_request_that_has_lost_patience(self) -> None:
        policy, waiting = policy_of(Batching(policy=Policy.BATCH_FIRST), size=8), waiting_for(900, 10)
        running, room = Running(1, 200), Room(7, 800)
        assert sizes(policy.decide(0.0, waiting, running, room)) == [10]
        assert policy.decide(PATIENCE_S, waiting, running, room) == Wait()

    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(st.integers(0, 1000))
    def test_no_request_starves_behind_a_stream_of_larger_ones(self, seed: int) -> None:
        trace = bursty(seconds=90, rate=3, seed=seed)
        small = Arrival(0.0, Cost(1, 1))
        engine = Engine(Steps(c=0.02))
        batcher = Batcher(Batching(policy=Policy.BATCH_FIRST), size=1)
        served = Run(batcher, engine, [small, *trace]).all()
        found = next(one for one in served if one.output_tokens == 1 and one.arrived == 0.0)
        assert found.ended <= PATIENCE_S + 10


class TestOnOneTrace:
    """The aims of the comparison, on the arithmetic engine."""

    def test_dynamic_generates_more_than_static_at_a_lower_p99(self) -> None:
        trace = bursty(seconds=60, rate=24, seed=1)
        static, dynamic = (
            simulate(trace, Batching(policy=policy), size=32, rate=24, slo_s=3)
            for policy in (Policy.STATIC, Policy.DYNAMIC)
        )
        assert dynamic.tokens_per_s >= 1.4 * static.tokens_per_s
        assert dynamic.latency_p99_s < static.latency_p99_s

    def test_elastic_keeps_an_objective_that_static_misses(self) -> None:
        trace = bursty(seconds=60, rate=12, seed=1)
        static = simulate(trace, Batching(policy=Policy.STATIC), size=32, rate=12, slo_s=2)
        elastic = simulate(trace, Batching(policy=Policy.ELASTIC, target_latency_ms=2000), size=32, rate=12, slo_s=2)
        assert elastic.latency_p95_s <= 2 < static.latency_p95_s

    def test_the_same_seed_is_the_same_trace(self) -> None:
        assert bursty(seconds=30, rate=8, seed=3) == bursty(seconds=30, rate=8, seed=3)
        assert bursty(seconds=30, rate=8, seed=3) != bursty(seconds=30, rate=8, seed=4)

    def test_it_has_the_rate_that_was_asked_for(self) -> None:
        assert len(bursty(seconds=3000, rate=8, seed=3)) == pytest.approx(24_000, rel=0.1)
