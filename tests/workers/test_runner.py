"""The runner against real PostgreSQL and S3: claims in groups, ends in groups, obeys, and gives back."""

from uuid import UUID

import psutil
import pytest
from sqlalchemy import text

from services.jobs import lifecycle
from services.jobs.types import Ending, Outcome
from shared.contracts.jobs import Pool, State
from shared.failpoints import armed
from shared.ids import new_id
from tests.services.jobs import build
from tests.support import wait_until
from tests.support.stores import RunningStores
from tests.workers.conftest import SERVE, World
from workers.runtime.claims import SHARING

LONG = {"steps": 1000, "step_seconds": 0.1}


def attempts(world: World, job_id: UUID) -> list[tuple[int, str | None]]:
    with world.database.transaction() as session:
        rows = session.execute(
            text("SELECT attempt, outcome FROM attempts WHERE job_id = :id ORDER BY attempt"), {"id": job_id}
        )
        return [(row.attempt, row.outcome) for row in rows]


class TestDispatch:
    def test_a_group_of_jobs_is_claimed_together_and_finished(self, world: World) -> None:
        jobs = world.jobs(150)
        world.runner()
        wait_until(lambda: world.count(State.SUCCEEDED) == len(jobs), what="all succeeded")
        with world.database.transaction() as session:
            claims = session.execute(text("SELECT count(DISTINCT claimed_at::text) FROM attempts")).scalar_one()
            commits = session.execute(text("SELECT count(DISTINCT xmin::text) FROM usage")).scalar_one()
        assert claims <= len(jobs)
        assert commits <= 10  # 64 to a commit, not one each

    def test_a_bell_wakes_at_once(self, world: World) -> None:
        runner = world.runner(runner_poll_s=60)
        wait_until(lambda: runner.claims.open)
        job = world.job()
        runner.wake(SERVE)
        world.wait_for(job, State.SUCCEEDED, timeout=5)

    def test_the_poll_finds_a_job_whose_bell_was_lost(self, world: World) -> None:
        runner = world.runner(runner_poll_s=0.4)
        wait_until(lambda: runner.claims.open)
        world.wait_for(world.job(), State.SUCCEEDED, timeout=5)

    def test_an_operation_that_raises_is_retried_and_then_failed(self, world: World) -> None:
        job = world.job(spec={"steps": "many"})
        world.runner(runner_poll_s=0.2)
        ended = world.wait_for(job, State.FAILED)
        assert ended.error is not None
        assert ended.error["code"] == "internal_error"
        assert attempts(world, job) == [(1, "failed"), (2, "failed"), (3, "failed")]

    def test_progress_is_told_in_numbered_events(self, world: World) -> None:
        job = world.job(spec={"steps": 20, "step_seconds": 0.1}, progress_total=20, progress_unit="steps")
        world.runner()
        world.wait_for(job, State.SUCCEEDED)
        with world.database.transaction() as session:
            told = session.execute(
                text("SELECT data->>'done' AS done FROM job_events WHERE type = 'job.progress' ORDER BY seq")
            ).scalars()
            assert [int(done) for done in told][-1] in range(5, 21)


class TestCapacity:
    def test_large_jobs_share_the_engine_in_small_numbers(self, world: World) -> None:
        world.jobs(10, spec=LONG, progress_total=1000, progress_unit="lines")
        runner = world.runner(runner_poll_s=0.2)
        wait_until(lambda: world.count(State.RUNNING) == SHARING, what="a few of them run")
        assert runner.claims.room(Pool.SERVE) == 0

    def test_a_full_worker_leaves_the_next_large_job_to_one_that_has_room(self, world: World) -> None:
        first, second = (world.runner(worker_devices=[device], runner_poll_s=0.2) for device in (0, 1))
        wait_until(lambda: first.claims.open and second.claims.open, what="both claim")
        world.jobs(2, spec=LONG, progress_total=1000, progress_unit="lines")
        wait_until(lambda: world.count(State.RUNNING) == 2, what="both jobs run")
        assert len(first.claims.live) == len(second.claims.live) == 1

    def test_small_jobs_fill_the_engine(self, world: World) -> None:
        world.jobs(100, spec=LONG, progress_total=1, progress_unit="lines")
        world.runner(engine_max_in_flight=16, runner_poll_s=0.2)
        wait_until(lambda: world.count(State.RUNNING) == 16, what="as many as the engine holds")


class TestOrders:
    def test_cancel_stops_running_work(self, world: World) -> None:
        job = world.job(spec=LONG)
        world.runner()
        world.wait_for(job, State.RUNNING)
        world.cancel(job)
        world.wait_for(job, State.CANCELLED, timeout=5)
        assert attempts(world, job) == [(1, "cancelled")]

    def test_pause_releases_and_resume_goes_on(self, world: World) -> None:
        job = world.job(spec=LONG)
        world.runner(runner_poll_s=0.3)
        world.wait_for(job, State.RUNNING)
        world.hold(job)
        world.wait_for(job, State.QUEUED, timeout=5)
        world.resume(job)
        world.wait_for(job, State.RUNNING, timeout=5)
        assert attempts(world, job) == [(1, "released"), (2, None)]

    def test_a_passed_deadline_expires_the_job(self, world: World) -> None:
        job = world.job(spec=LONG)
        world.execute("UPDATE jobs SET deadline_at = clock_timestamp() + interval '1 second' WHERE id = :id", id=job)
        world.runner()
        assert world.wait_for(job, State.EXPIRED, timeout=10).error["code"] == "deadline_exceeded"  # type: ignore[index]

    def test_an_attempt_that_runs_too_long_fails(self, world: World) -> None:
        job = world.job(spec=LONG, max_runtime_s=0.3, max_failures=1)
        world.runner()
        assert world.wait_for(job, State.FAILED).error["code"] == "max_runtime_exceeded"  # type: ignore[index]


class TestFencing:
    def test_a_zombie_stops_and_writes_nothing(self, world: World) -> None:
        job = world.job(spec=LONG)
        runner = world.runner()
        world.wait_for(job, State.RUNNING)
        with world.database.transaction() as session:  # somebody took the job away
            lifecycle.end(session, [Ending(job, 1, Outcome.LOST, error=build.BOOM, retry_after_s=3600)])
        wait_until(lambda: not runner.claims.live, timeout=5, what="the zombie has stopped")
        assert attempts(world, job) == [(1, "lost")]
        assert world.state(job) == State.QUEUED


class TestDoubt:
    def test_a_claim_whose_answer_was_lost_is_given_back_and_claimed_again(self, world: World) -> None:
        job = world.job()
        with armed("claim.after_commit:raise@1"):
            world.runner()
            world.wait_for(job, State.SUCCEEDED)
        assert attempts(world, job) == [(1, "released"), (2, "succeeded")]

    def test_a_finish_whose_answer_was_lost_counts(self, world: World) -> None:
        job = world.job()
        with armed("finish.after_commit:raise@1"):
            runner = world.runner()
            world.wait_for(job, State.SUCCEEDED)
            wait_until(lambda: not runner.claims.live)
        assert attempts(world, job) == [(1, "succeeded")]

    @pytest.mark.faults
    def test_work_goes_on_while_the_database_is_away(self, world: World, stores: RunningStores) -> None:
        job = world.job(spec={"steps": 30, "step_seconds": 0.1})
        runner = world.runner()
        world.wait_for(job, State.RUNNING)
        children = stores.children["postgres"]
        children.kill_group()
        wait_until(lambda: all(work.finishing for work in runner.claims.live.values()), what="the work is done")
        stores.restart("postgres")
        world.database.close()
        world.wait_for(job, State.SUCCEEDED, timeout=30)
        assert attempts(world, job) == [(1, "succeeded")]


class TestDrain:
    def test_running_work_is_released_and_the_worker_says_goodbye(self, world: World) -> None:
        job = world.job(spec=LONG)
        runner = world.runner()
        world.wait_for(job, State.RUNNING)
        wait_until(lambda: registered(world) == 1)
        runner.drain()
        assert runner.join(10)
        assert world.state(job) == State.QUEUED
        assert attempts(world, job) == [(1, "released")]
        assert world.get(job).lost_count == 0
        assert registered(world) == 0


def registered(world: World) -> int:
    with world.database.transaction() as session:
        return int(session.execute(text("SELECT count(*) FROM workers WHERE stopped_at IS NULL")).scalar_one())


class TestSlots:
    def test_a_second_worker_on_the_same_slots_claims_nothing(self, world: World) -> None:
        first = world.runner()
        wait_until(lambda: first.claims.open)
        second = world.runner(runner_poll_s=0.2)
        first.drain()
        assert first.join(10)
        wait_until(lambda: second.claims.open and not second.host.devices.slots.missing, what="it inherits the slots")
        world.wait_for(world.job(), State.SUCCEEDED)

    def test_jobs_of_the_dead_holder_are_taken_back_at_once(self, world: World) -> None:
        dead = new_id()
        slots = world.settings.data_dir / "worker" / "slots"
        slots.mkdir(parents=True)
        (slots / "cpu0.serve.lock").write_text(f"{dead}")
        job = world.job()
        with world.database.transaction() as session:
            build.claim(session, worker=dead)
        world.runner()
        world.wait_for(job, State.SUCCEEDED, timeout=10)  # its lease would have run for a minute
        assert attempts(world, job) == [(1, "lost"), (2, "succeeded")]


class TestProcess:
    @pytest.mark.timeout(60)
    def test_kill_and_restart_goes_on_where_the_job_was(self, world: World) -> None:
        job = world.job(spec=LONG)
        first = world.worker()
        world.wait_for(job, State.RUNNING, timeout=30)
        first.kill()
        first.wait()
        world.worker()
        wait_until(lambda: world.get(job).attempt == 2, timeout=30, what="a second attempt")
        assert world.get(job).lost_count == 1

    @pytest.mark.timeout(60)
    def test_sigterm_drains_and_exits_with_success(self, world: World) -> None:
        job = world.job(spec=LONG)
        process = world.worker()
        world.wait_for(job, State.RUNNING, timeout=30)
        assert psutil.Process(process.pid).memory_info().rss < 150 * 2**20
        process.terminate()
        assert process.wait(20) == 0
        assert world.state(job) == State.QUEUED

    @pytest.mark.timeout(60)
    def test_a_bell_through_redis_reaches_the_runner(self, world: World) -> None:
        from shared import broker  # noqa: PLC0415 - after the settings are in place

        world.worker(runner_poll_s=3600)
        wait_until(lambda: registered(world) == 1, timeout=30)
        job = world.job()
        broker.ring(SERVE)
        world.wait_for(job, State.SUCCEEDED, timeout=30)
