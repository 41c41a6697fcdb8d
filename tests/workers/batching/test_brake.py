"""Jobs give way to interactive calls, and go on when they are over."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.serving import Batching
from workers.runtime.batching.batcher import Batcher
from workers.runtime.batching.brake import HOLD_S, LOOK_S, RATIO, Brake
from workers.runtime.batching.values import BrakedBy, Cost, Load
from workers.runtime.comparison.simulation import Engine, Run, Steps
from workers.runtime.comparison.trace import bursty

IDLE = Load()
CALL = Load(interactive=1)


def learned(*, b: float, c: float, sizes: range) -> Brake:
    """A brake that has seen steps of c + b·n."""
    brake = Brake(64, slowdown=1.25)
    for _ in range(10):
        for requests in sizes:
            brake.learn(float(requests), c + b * requests)
    return brake


class TestInteractive:
    def test_an_idle_engine_is_all_for_jobs(self) -> None:
        assert Brake(64, slowdown=1.25).places(0.0, IDLE, 10) == (64, None)

    def test_figures_that_nobody_has_brake_nobody(self) -> None:
        assert Brake(64, slowdown=1.25).places(0.0, None, 64) == (64, None)

    def test_one_call_leaves_what_hardly_slows_it_down(self) -> None:
        places, why = Brake(64, slowdown=1.25).places(0.0, CALL, 64)
        assert (places, why) == (int(0.25 * (RATIO + 1)), BrakedBy.INTERACTIVE)

    def test_it_stays_on_until_no_call_was_seen_for_a_while(self) -> None:
        brake = Brake(64, slowdown=1.25)
        braked = brake.places(0.0, CALL, 64)
        assert brake.places(HOLD_S, IDLE, 3) == braked
        assert brake.places(HOLD_S + 0.1, IDLE, 3) == (64, None)

    def test_a_queue_in_the_engine_stops_admission(self) -> None:
        load = Load(interactive=1, waiting=2)
        assert Brake(64, slowdown=1.25).places(0.0, load, 5) == (0, BrakedBy.WAITING)

    def test_a_queue_of_jobs_alone_is_nobodys_trouble(self) -> None:
        assert Brake(64, slowdown=1.25).places(0.0, Load(waiting=9), 64) == (64, None)

    def test_jobs_may_be_equals(self) -> None:
        assert Brake(64, slowdown=None).places(0.0, Load(interactive=5, waiting=5), 64) == (64, None)

    @given(st.integers(1, 512), st.integers(0, 600), st.floats(1.01, 100), st.integers(1, 512))
    def test_one_place_is_always_left_and_never_more_than_there_are(
        self, size: int, interactive: int, slowdown: float, in_flight: int
    ) -> None:
        places, _ = Brake(size, slowdown=slowdown).places(0.0, Load(interactive=interactive), in_flight)
        assert 1 <= places <= size
        assert places <= max(1, size - interactive)


class TestLearning:
    def test_an_engine_with_cheap_sequences_leaves_jobs_more(self) -> None:
        cheap = learned(b=0.00003, c=0.0035, sizes=range(1, 64))
        assert cheap.ratio == pytest.approx(117, rel=0.05)
        assert cheap.places(0.0, CALL, 64)[0] == pytest.approx(29, abs=1)

    def test_dear_ones_leave_them_less(self) -> None:
        assert learned(b=0.002, c=0.008, sizes=range(1, 64)).places(0.0, CALL, 64)[0] == 1

    def test_batches_of_one_size_teach_nothing(self) -> None:
        assert learned(b=0.00003, c=0.0035, sizes=range(64, 65)).ratio == RATIO


class TestMemory:
    def test_a_full_cache_stops_admission_until_there_is_room_again(self) -> None:
        brake = Brake(64, slowdown=1.25)
        seen = [brake.places(0.0, Load(kv_used=used), 5)[0] for used in (0.85, 0.95, 0.85, 0.75, 0.85)]
        assert seen == [64, 0, 0, 64, 64]

    def test_stale_figures_do_not_stop_an_empty_engine(self) -> None:
        assert Brake(64, slowdown=1.25).places(0.0, Load(kv_used=1.0), 0) == (64, None)


@dataclass
class Figures:
    """What the engine says."""

    load: Load = field(default_factory=Load)

    def __call__(self) -> Load:
        return self.load


class TestBatcher:
    @staticmethod
    def full(figures: Figures) -> Batcher:
        batcher = Batcher(Batching(), size=16, load=figures)
        for _ in range(40):
            batcher.offer("job", Cost(10, 10), now=0.0)
        batcher.admit(0.0)
        return batcher

    def test_a_call_lets_the_batch_run_dry_and_its_end_fills_it_again(self) -> None:
        # Given a full engine
        figures = Figures()
        batcher = self.full(figures)
        first = batcher.figures(0.0)
        assert (first.in_flight, first.braked_by, first.waiting) == (16, None, 24)

        # When somebody chats
        figures.load = CALL
        assert batcher.admit(0.1) == ([], 0.1 + LOOK_S)
        braked = batcher.figures(0.2)
        assert (braked.places, braked.braked_by) == (1, BrakedBy.INTERACTIVE)
        assert braked.braked_s == pytest.approx(0.1)

        # Then, some time after the last call, jobs have it all
        figures.load = IDLE
        assert batcher.admit(0.2 + HOLD_S + 0.1) == ([], None)
        assert batcher.figures(0.4 + HOLD_S).places == 16

    def test_no_policy_is_stuck_behind_calls_without_end(self) -> None:
        for policy in ("static", "dynamic", "elastic", "batch_first"):
            batching = Batching.model_validate({"policy": policy, "target_latency_ms": 1000, "min_batch_size": 8})
            batcher = Batcher(batching, size=16, load=Figures(Load(interactive=40, waiting=3, kv_used=0.5)))
            trace = bursty(seconds=5, rate=5, seed=1)
            assert len(Run(batcher, Engine(Steps()), trace).all()) == len(trace)

    def test_it_counts_what_waited_and_what_ran(self) -> None:
        batcher = Batcher(Batching(), size=1)
        first, second = (batcher.offer("job", Cost(10, 10), now=0.0) for _ in range(2))
        batcher.admit(0.0)
        batcher.answered(first, now=2.0)
        batcher.admit(2.0)
        batcher.dropped(second, now=3.0)
        figures = batcher.figures(5.0)
        assert (figures.admitted, figures.finished, figures.in_flight, figures.waiting) == (2, 1, 0, 0)
        assert (figures.queue_wait_s, figures.service_s, figures.batch_size) == (2.0, 2.0, 1.0)

    def test_a_request_without_a_cost_is_an_average_one(self) -> None:
        batcher = Batcher(Batching(max_batch_tokens=1000), size=8)
        for _ in range(60):
            batcher.withdraw(batcher.offer("job", Cost(300, 100), now=0.0))
        batcher.offer("job", None, now=0.0)
        batcher.admit(0.0)
        assert batcher.running.tokens == pytest.approx(400, abs=10)
