"""Turns go round the jobs."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.batching.values import Cost, Request
from workers.runtime.batching.waiting import Waiting


def queue(jobs: Sequence[str], tokens: Sequence[int] = ()) -> Waiting:
    """One request after the other, a second apart."""
    waiting = Waiting()
    for second, job in enumerate(jobs):
        waiting.add(Request(job, Cost(output_tokens=tokens[second] if tokens else 1), float(second)))
    return waiting


class TestTurns:
    def test_one_of_each_job_by_age(self) -> None:
        turns = [(request.job, request.arrived) for request in queue("aaabca").turns()]
        assert turns == [("a", 0), ("b", 3), ("c", 4), ("a", 1), ("a", 2), ("a", 5)]

    def test_a_ranking_orders_each_job_and_not_the_jobs(self) -> None:
        waiting = queue("aaab", [1, 5, 3, 4])
        assert [request.tokens for request in waiting.turns(lambda request: request.tokens)] == [5, 4, 3, 1]

    def test_whoever_had_a_turn_comes_last(self) -> None:
        waiting = queue("aabb")
        waiting.take(next(waiting.turns()))
        assert [request.job for request in waiting.turns()] == ["b", "a", "b"]

    def test_withdrawing_is_not_a_turn(self) -> None:
        waiting = queue("aab")
        waiting.withdraw(next(waiting.turns()))
        assert [request.job for request in waiting.turns()] == ["a", "b"]

    @given(st.lists(st.sampled_from("abcd"), max_size=30))
    def test_taking_one_by_one_is_the_order_of_the_turns(self, jobs: list[str]) -> None:
        waiting, order = queue(jobs), list(queue(jobs).turns())
        for expected in order:
            request = next(waiting.turns())
            assert (request.job, request.arrived) == (expected.job, expected.arrived)
            waiting.take(request)
        assert len(waiting) == 0

    @given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
    def test_the_oldest_is_the_first_that_came(self, jobs: list[str]) -> None:
        waiting = queue(jobs)
        while waiting:
            request = waiting.oldest
            assert request.arrived == min(other.arrived for other in waiting.turns())
            waiting.withdraw(request)
