"""What becomes of a quantization when something goes wrong in the middle: nothing half-made, nothing left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import psutil
import pytest

from services.catalog import aliases
from shared import failpoints
from shared.contracts.jobs import Pool, State
from shared.manifest import Manifest
from tests.support import wait_until
from tests.support.configured import configured, environment
from tests.workers.compression_desk import END_S, JUDGED, LONG, Desk
from tests.workers.conftest import FORGE, World
from tests.workers.engine_yard import SERVER
from tests.workers.test_forge import gone
from workers.runtime.folders import Folders

T = TypeVar("T")
#: a worker whose `worker` folder is a disk of 4 MiB: yard-tiny has 6.5
SMALL_DISK = 'mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"'
FREE_S = 10.0  #: from a cancel to a free device

pytestmark = [pytest.mark.timeout(240)]


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


def working(world: World, desk: Desk, **spec: Any) -> tuple[Any, psutil.Process]:
    """A long quantization in the middle of its work, and its forge."""
    job = desk.quantize(**LONG | spec)
    forge = desk.forge(job)
    return job, forge


def in_the_middle(world: World, job: Any) -> None:
    wait_until(lambda: world.get(job).progress_total is not None, timeout=END_S, what="progress by layer")


@pytest.mark.slow
class TestDeath:
    def test_a_killed_forge_starts_again_and_a_cancel_leaves_nothing(self, world: World, desk: Desk) -> None:
        runner = world.runner(runner_poll_s=0.5)
        job, forge = working(world, desk)
        forge.send_signal(signal.SIGKILL)
        wait_until(lambda: world.get(job).attempt == 2, timeout=END_S, what="another attempt")
        again = desk.forge(job)
        assert again.pid != forge.pid
        in_the_middle(world, job)

        cancelled_at = monotonic()
        world.cancel(job)
        world.wait_for(job, State.CANCELLED, timeout=30)
        assert monotonic() - cancelled_at < FREE_S
        assert gone(again)
        assert len(runner.host.devices.free(Pool.FORGE)) == 1
        wait_until(lambda: desk.attempts() == [], what="its folder is gone")
        assert desk.models("yard-tiny-w4a16") == []
        assert desk.artifacts(job) == {}

    def test_a_worker_that_dies_between_upload_and_commit_leaves_one_version(self, world: World, desk: Desk) -> None:
        """The second one also sweeps up what the first has left on the disk."""
        job = desk.quantize()
        failing = {"failpoints": "finish.after_upload:kill9@once", "runner_poll_s": 0.5}
        first = world.worker(**failing)
        assert first.wait(END_S) == -signal.SIGKILL
        assert desk.models("yard-tiny-fp16") == []
        world.worker(**failing)
        ended = desk.finished(job)
        assert (ended.attempt, ended.lost_count) == (2, 1)
        (model,) = desk.models("yard-tiny-fp16")
        assert desk.result(job).result_model_id == model.id
        assert set(desk.artifacts(job)) == {"checkpoint", "model-card.md"}
        for entry in Manifest.of_json(model.manifest):
            assert desk.store.size(world.tenant, entry.sha256) == entry.bytes
        wait_until(lambda: desk.attempts() == [], what="nothing is left of either attempt")
        assert desk.materialised() == {desk.original.digest, model.digest}


@pytest.mark.slow
class TestSpeed:
    def test_a_cancel_while_engines_are_timed_leaves_neither_a_version_nor_its_engine(
        self, world: World, desk: Desk
    ) -> None:
        job = desk.quantize(evaluation=JUDGED)
        runner = world.runner(engine="scripted", engine_commands={"scripted": [*SERVER, "--word-s", "0.01"]})

        def candidates() -> list[str]:
            known = {desk.original.digest}
            return [engine.model.digest for engine in runner.host.engines if engine.model.digest not in known]

        wait_until(candidates, timeout=END_S, what="an engine of the candidate")
        cancelled_at = monotonic()
        world.cancel(job)
        world.wait_for(job, State.CANCELLED, timeout=30)
        assert monotonic() - cancelled_at < FREE_S
        assert candidates() == []
        assert desk.models("yard-tiny-fp16") == []
        assert desk.evaluations() == []
        assert desk.artifacts(job) == {}
        assert desk.materialised() == {desk.original.digest}
        wait_until(lambda: desk.attempts() == [], what="its folder is gone")


@pytest.mark.slow
class TestMemory:
    def test_a_forge_without_memory_says_so_and_is_not_tried_again(self, world: World, desk: Desk) -> None:
        world.runner(runner_poll_s=0.5)
        job, forge = working(world, desk)
        in_the_middle(world, job)
        held = forge.memory_info().vms
        forge.rlimit(psutil.RLIMIT_AS, (held, held))
        ended = desk.finished(job, State.FAILED)
        assert ended.error is not None
        assert (ended.error["code"], ended.attempt) == ("out_of_memory", 1)
        assert desk.models("yard-tiny-w4a16") == []
        assert desk.attempts() == []


def isolated() -> list[str] | None:
    """How a process of its own mounts is started here; None where nobody may."""
    for command in (["unshare", "--mount"], ["unshare", "--mount", "--user", "--map-root-user"]):
        tried = subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False, capture_output=True)
        if tried.returncode == 0:
            return command
    return None


@pytest.mark.slow
class TestDisk:
    def test_a_model_that_does_not_fit_leaves_nothing(self, world: World, desk: Desk) -> None:
        command = isolated()
        if command is None:
            pytest.skip("this host does not let a test mount a disk")
        folder = world.settings.data_dir / "worker"
        folder.mkdir(exist_ok=True)
        job = desk.quantize()
        world.execute("UPDATE jobs SET max_failures = 1 WHERE id = :id", id=job)
        worker = subprocess.Popen(
            [*command, "sh", "-c", SMALL_DISK, str(folder), sys.executable, "-m", "workers.app"],
            env={**os.environ, **environment(world.settings)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        world.workers.append(worker)
        ended = desk.finished(job, State.FAILED)
        assert ended.error is not None
        assert (ended.error["code"], ended.error["retryable"]) == ("disk_full", True)
        inside = Path(f"/proc/{worker.pid}/root{folder}")  # its disk, as it sees it
        assert [path for path in inside.glob("models/*") if path.is_dir()] == []
        wait_until(lambda: list(inside.glob("jobs/*")) == [], what="its folder is gone")


class TestEnd:
    @pytest.mark.slow
    def test_a_name_that_is_taken_in_the_last_moment_leaves_nothing(self, world: World, desk: Desk) -> None:
        """The checkpoint is stored, and lies where engines look for it, when its row turns out to be impossible."""
        job = desk.quantize()
        attempt = Folders.of(world.settings).attempt(job, 1)
        with failpoints.armed("finish.after_upload:sleep=1"):
            world.runner()
            wait_until((attempt / "out" / "checkpoint" / "README.md").exists, timeout=END_S, what="it is being stored")
            with world.database.transaction() as session:
                aliases.point(session, world.tenant, "yard-tiny-fp16", desk.original)
            ended = desk.finished(job, State.FAILED)
        assert ended.error is not None
        assert (ended.error["code"], ended.attempt) == ("name_taken", 1)
        assert desk.models("yard-tiny-fp16") == []
        assert desk.artifacts(job) == {}
        assert desk.materialised() == {desk.original.digest}
        assert desk.attempts() == []

    def test_rows_that_cannot_be_written_any_more_fail_the_job(self, world: World) -> None:
        with configured(world.settings, extra_kinds=["tests.support.failing_end"]):
            job = world.job(kind="failing_end", queue=FORGE, spec={})
            world.runner()
            ended = world.wait_for(job, State.FAILED)
        assert ended.error is not None
        assert (ended.error["code"], ended.attempt) == ("name_taken", 1)
