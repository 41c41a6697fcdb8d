"""A tuning ends with the same weights whatever is killed, and whoever goes on with it (in large: `tuning_kills.py`)."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from shared.contracts.jobs import State
from shared.embedded.roles import ROOT, module_argv
from tests.faults.conftest import quick_yard
from tests.faults.tuning_kills import CONSTANTS, FORGE, HOST, Killer, Moment
from tests.faults.tunings import Look, Tunings, attempts, compare
from tests.support.polling import wait_until
from tests.support.yards import RunningYard

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(240)]

STEPS, EVERY, BATCH = 40, 5, 4
KILLS = [
    Moment(0, early=True, later_s=0.0, victim=FORGE),
    Moment(2 * EVERY, early=False, later_s=0.0, victim=HOST),
]


class TestTuning:
    def test_it_ends_the_same_whatever_is_killed_and_whoever_goes_on(self, tmp_path: Path) -> None:
        with quick_yard(tmp_path / "yard", **CONSTANTS) as (yard, history):
            tunings = Tunings.of(yard, history, batch=BATCH, steps=STEPS, every=EVERY)
            plain = tunings.run()

            killer = Killer(tunings, tunings.start())
            for moment in KILLS:
                killer.strike(moment)
            paused = pause_once_it_trains(killer)
            with without_worker(yard), another_worker(yard, tmp_path / "other"):
                yard.insist("POST", f"/v1/jobs/{killer.job_id}/resume")
                job = history.finished(killer.job_id)

            assert (job["attempt"], job["failure_count"]) == (2 + len(KILLS), 0)
            *_, before, last = yard.insist("GET", f"/v1/jobs/{killer.job_id}/attempts").json()["data"]
            assert (before["outcome"], last["outcome"]) == ("released", "succeeded")
            assert before["worker_id"] != last["worker_id"]
            assert f"goes on after step {paused.kept} of {STEPS}" in logs(yard, killer.job_id, attempt=job["attempt"])
            compare(plain, tunings.tuned(job), steps=STEPS)
            assert attempts(yard) == []


def pause_once_it_trains(killer: Killer) -> Look:
    """Pause a run that goes on after its kills: where it stands then. It has stopped with a checkpoint."""
    tunings, job_id = killer.tunings, killer.job_id
    wait_until(lambda: killer.look() and killer.kills[-1].since is not None, timeout=120, what="it trains again")
    since = killer.kills[-1].since or 0
    assert since in range(EVERY, STEPS, EVERY), "it went on from a checkpoint"
    tunings.yard.insist("POST", f"/v1/jobs/{job_id}/pause")
    wait_until(lambda: (look := tunings.look(job_id)) and look.state == State.QUEUED, timeout=60, what="it waits")
    paused = tunings.look(job_id)
    assert paused is not None
    assert since < paused.kept == paused.told < STEPS, "a checkpoint of its last step"
    return paused


def logs(yard: RunningYard, job_id: str, *, attempt: int) -> list[str]:
    """What an attempt has said."""
    rows = yard.insist("GET", f"/v1/jobs/{job_id}/logs", params={"limit": 1000}).json()["data"]
    return [row["message"] for row in rows if row["attempt"] == attempt]


@contextmanager
def without_worker(yard: RunningYard) -> Iterator[None]:
    """Let the yard's worker end, and have no other one started until the block ends."""
    yard_pid, worker = yard.state.pid, psutil.Process(yard.pids("worker")[0])
    os.kill(yard_pid, signal.SIGSTOP)
    try:
        worker.terminate()
        wait_until(lambda: worker.status() == psutil.STATUS_ZOMBIE, timeout=60, what="the worker has ended")
        yield
    finally:
        os.kill(yard_pid, signal.SIGCONT)


@contextmanager
def another_worker(yard: RunningYard, folder: Path) -> Iterator[None]:
    """A worker on the yard's stores that has nothing on its disk, as on another host."""
    folder.mkdir()
    names = {"ENV_FILE": yard.place.env_file, "DATA_DIR": folder, "RUN_DIR": yard.place.run / "other"}
    env = yard.environment | {f"MODELYARD_{name}": str(value) for name, value in names.items()}
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(module_argv("workers.app"), cwd=ROOT, env=env, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)
