"""Forge processes: their own group, an empty environment, checkpoints, and an end that leaves nothing behind."""

import os
import signal
from pathlib import Path
from uuid import UUID

import orjson
import psutil
import pytest

from services.jobs import repository
from shared.contracts.jobs import State
from tests.support import wait_until
from tests.workers.conftest import World

SLOW = {"steps": 1000, "step_seconds": 0.05}


def note_of(world: World, job_id: UUID) -> Path | None:
    found = list((world.settings.data_dir / "worker" / "jobs" / str(job_id)).glob("*/process.json"))
    return found[0] if found else None


def forge_of(world: World, job_id: UUID) -> psutil.Process:
    """The forge process of a running job."""
    path = wait_until(lambda: note_of(world, job_id), what="a forge process")
    assert path is not None
    return psutil.Process(orjson.loads(path.read_bytes())["process"]["pid"])


def steps(world: World, job_id: UUID) -> list[tuple[int, int]]:
    with world.database.transaction() as session:
        rows = repository.checkpoints(session, world.tenant, job_id)
        return sorted((row.attempt, row.step) for row in rows)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


class TestRun:
    def test_it_runs_to_its_artifact(self, world: World) -> None:
        job = world.forge_job(steps=5, checkpoint_every=2)
        world.runner()
        ended = world.wait_for(job, State.SUCCEEDED)
        assert (ended.progress_done, ended.gpu_seconds > 0) == (5, True)
        with world.database.transaction() as session:
            (artifact,) = repository.artifacts(session, world.tenant, [job])
        assert (artifact.name, artifact.media_type) == ("report.txt", "text/plain")
        kept = steps(world, job)  # the first may have waited so long for the store that the second took its place
        assert (kept[-1], set(kept) <= {(1, 2), (1, 4)}) == ((1, 4), True)
        assert note_of(world, job) is None

    def test_it_sees_no_environment_and_is_nice(self, world: World) -> None:
        job = world.forge_job(**SLOW)
        world.runner()
        forge = forge_of(world, job)
        wait_until(lambda: world.get(job).progress_done > 0, what="the forge works")
        assert forge.environ() == {}
        assert forge.nice() == min(19, os.nice(0) + 10)
        assert psutil.Process(forge.pid).cwd().startswith(str(world.settings.data_dir))

    def test_one_at_a_time_on_a_cpu(self, world: World) -> None:
        jobs = [world.forge_job(**SLOW) for _ in range(2)]
        world.runner()
        forge_of(world, jobs[0])
        assert [world.state(job) for job in jobs] == [State.RUNNING, State.QUEUED]

    def test_a_crash_is_told_and_retried(self, world: World) -> None:
        job = world.forge_job(**SLOW)
        world.execute("UPDATE jobs SET max_failures = 1 WHERE id = :id", id=job)
        world.runner()
        forge_of(world, job).send_signal(signal.SIGSEGV)
        error = world.wait_for(job, State.FAILED).error
        assert error is not None
        assert (error["code"], error["retryable"]) == ("forge_crashed", True)


class TestStop:
    def test_cancel_ends_the_whole_group(self, world: World) -> None:
        job = world.forge_job(**SLOW)
        world.runner()
        forge = forge_of(world, job)
        wait_until(lambda: world.get(job).progress_done > 0)
        world.cancel(job)
        world.wait_for(job, State.CANCELLED)
        assert gone(forge)

    def test_one_that_does_not_listen_is_killed(self, world: World) -> None:
        job = world.forge_job(**SLOW)
        world.runner(cancel_term_s=0.5)
        forge = forge_of(world, job)
        forge.suspend()  # SIGTERM waits until it is continued; SIGKILL does not
        world.cancel(job)
        world.wait_for(job, State.CANCELLED)
        assert gone(forge)

    def test_pause_writes_a_checkpoint_and_resume_goes_on_there(self, world: World) -> None:
        job = world.forge_job(steps=40, step_seconds=0.1)
        world.runner(runner_poll_s=0.3)
        wait_until(lambda: world.get(job).progress_done >= 3, what="three steps")
        world.hold(job)
        world.wait_for(job, State.QUEUED)
        ((attempt, step),) = steps(world, job)
        assert (attempt, step >= 3) == (1, True)
        world.resume(job)
        world.wait_for(job, State.RUNNING)
        wait_until(lambda: logs(world, job) == [f"resumed at step {step}"], what="the log says so")

    def test_a_corrupt_checkpoint_gives_way_to_the_one_before(self, world: World) -> None:
        job = world.forge_job(steps=1000, step_seconds=0.05, checkpoint_every=5)
        first = world.runner()
        wait_until(lambda: len(steps(world, job)) >= 2, what="two checkpoints")
        first.drain()
        assert first.join(15)
        kept = steps(world, job)
        world.execute(
            "UPDATE checkpoints SET manifest = jsonb_set(manifest, '{0,sha256}', to_jsonb(repeat('0', 64)))"
            " WHERE step = :step",
            step=kept[-1][1],
        )
        world.runner()
        wait_until(lambda: logs(world, job)[-1:] == [f"resumed at step {kept[-2][1]}"], what="it resumed before that")
        assert logs(world, job)[0].startswith(f"the checkpoint of step {kept[-1][1]} is damaged")


def logs(world: World, job_id: UUID) -> list[str]:
    with world.database.transaction() as session:
        return [line.message for line in repository.logs(session, world.tenant, job_id)]


class TestOrphans:
    @pytest.mark.timeout(60)
    def test_a_killed_worker_takes_its_forge_along(self, world: World) -> None:
        job = world.forge_job(**SLOW)
        worker = world.worker()
        world.wait_for(job, State.RUNNING, timeout=30)
        forge = forge_of(world, job)
        worker.kill()
        worker.wait()
        wait_until(lambda: gone(forge), timeout=5, what="the forge is gone")
        world.runner()
        wait_until(lambda: world.get(job).attempt == 2, what="the job is taken over")
        assert world.get(job).lost_count == 1
