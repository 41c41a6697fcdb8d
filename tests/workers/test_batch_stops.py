"""The `batch` kind's lines when their work is cut short: by a cancel, a deadline, a death."""

from datetime import timedelta

import pytest

from shared.clock import utc_now
from shared.contracts.jobs import State
from tests.support import wait_until
from tests.support.scripted_engine import COMMAND
from tests.workers.conftest import World
from tests.workers.test_batch import SCRIPTED, asked, completion, done, lines, model, outputs, submit
from tests.workers.test_inference import engine_of

__all__ = ["model"]  # a fixture of every test here

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


class TestStops:
    def test_a_cancelled_batch_keeps_what_was_answered_and_leaves_the_engine(self, world: World):
        job = submit(world, [completion(f"w{number} x y z") for number in range(200)])
        slow = {"engine": "scripted", "engine_commands": {"scripted": [*COMMAND, "--word-s", "0.05"]}}
        runner = world.runner(**slow, engine_max_in_flight=4)  # ten seconds for all of them
        wait_until(lambda: done(world, job) > 20, timeout=40, what="some lines")
        world.cancel(job)
        ended = world.wait_for(job, State.CANCELLED, timeout=15)
        (running,) = runner.host.engines
        assert (running.lane.in_flight, running.lane.jobs) == (0, 0)
        found = lines(world, job)
        assert 20 < ended.progress_done == sum(line.status == "done" for line in found) < 200
        assert {line.status for line in found} == {"done", "pending"}

    def test_a_deadline_ends_it_with_what_there_is(self, world: World):
        warm = submit(world, [completion("warm")])
        runner = world.runner(
            engine="scripted",
            engine_commands={"scripted": [*COMMAND, "--word-s", "0.2"]},
            engine_max_in_flight=8,
        )
        world.wait_for(warm, State.SUCCEEDED, timeout=40)  # the start of an engine takes seconds of its own
        job = submit(
            world,
            [completion(f"w{number} x y z") for number in range(400)],
            deadline_at=utc_now() + timedelta(seconds=5),
        )
        runner.wake("cpu.serve")
        ended = world.wait_for(job, State.EXPIRED, timeout=30)
        assert 0 < ended.progress_done < 400
        assert ended.error is not None
        assert ended.error["code"] == "deadline_exceeded"


class TestResume:
    def test_the_next_attempt_runs_only_what_is_left(self, world: World):
        job = submit(world, [completion(f"w{number} x") for number in range(300)])
        slow = {"engine": "scripted", "engine_commands": {"scripted": [*COMMAND, "--word-s", "0.1"]}}
        worker = world.worker(**slow, engine_max_in_flight=8)
        wait_until(lambda: done(world, job) > 16, timeout=40, what="some lines")
        worker.kill()
        worker.wait()
        before = [line.line_no for line in lines(world, job) if line.status == "done"]
        runner = world.runner(**SCRIPTED)
        world.wait_for(job, State.SUCCEEDED, timeout=40)
        assert len(asked(runner)) == 300 - len(before)
        found = lines(world, job)
        assert {line.attempt for line in found} == {1, 2}
        assert [line.line_no for line in found if line.attempt == 1] == before
        assert [line.output["body"]["choices"][0]["text"] for line in found if line.output] == [
            f"w{number} x" for number in range(300)
        ]

    def test_a_dead_engine_loses_no_line(self, world: World):
        job = submit(world, [completion(f"line {number}", max_tokens=48, ignore_eos=True) for number in range(40)])
        world.runner(engine_max_in_flight=8)
        wait_until(lambda: done(world, job) > 4, timeout=60, what="some lines")
        engine_of(world).kill()
        world.wait_for(job, State.SUCCEEDED, timeout=60)
        assert {line.attempt for line in lines(world, job)} == {1}
        assert len(outputs(world, job)) == 40
