"""Processes that stall instead of dying: a zombie worker, a forge that ignores SIGTERM, a frozen broker (4, 3, 8)."""

import os
import signal

import pytest

from shared.contracts.jobs import State
from tests.faults.conftest import QUICK
from tests.faults.history import History, inference, submit
from tests.faults.test_kills import forges
from tests.support.polling import wait_until
from tests.support.yards import RunningYard

pytestmark = pytest.mark.faults

Both = tuple[RunningYard, History]


class TestZombie:
    def test_a_worker_that_slept_past_its_lease_is_fenced(self, shared_yard: Both) -> None:
        yard, history = shared_yard
        job_id = submit(yard, "inference", inference(150, tokens=64))
        history.await_lines(job_id, 10)

        pid = yard.kill("worker", signal.SIGSTOP)
        wait_until(lambda: state_of(yard, job_id) == State.QUEUED, timeout=60, what="the reaper took the job back")
        at_reap = history.recorded(job_id)
        os.kill(pid, signal.SIGCONT)

        job = history.finished(job_id)
        assert (job["state"], job["lost_count"], job["attempt"] >= 2) == (State.SUCCEEDED, 1, True)
        assert history.recorded(job_id, attempt=1) == at_reap, "the zombie wrote after it was fenced"
        history.check([job_id])


class TestForge:
    def test_one_that_ignores_sigterm_is_killed_and_then_cancelled(self, shared_yard: Both) -> None:
        yard, history = shared_yard
        job_id = submit(yard, "probe", {"steps": 1000, "step_seconds": 0.1, "pool": "forge"})
        wait_until(lambda: forges(yard), timeout=30, what="the forge runs")
        for process in forges(yard):
            process.suspend()  # SIGTERM is not delivered to it

        with yard.client() as client:
            client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()

        job = history.finished(job_id, timeout=30 + 10 * float(QUICK["cancel_term_s"]))
        assert job["state"] == State.CANCELLED
        assert forges(yard) == [], "cancelled was said before the process was gone"
        history.check([job_id])


class TestFrozenBroker:
    def test_jobs_go_on_without_bells(self, shared_yard: Both) -> None:
        yard, history = shared_yard
        pid = yard.kill("broker", signal.SIGSTOP)
        try:
            ids = [submit(yard, "probe", {}) for _ in range(20)]
            states = [history.finished(job_id)["state"] for job_id in ids]
        finally:
            os.kill(pid, signal.SIGCONT)
        assert set(states) == {State.SUCCEEDED}
        history.check(ids)
        wait_until(yard.is_ready, timeout=60, what="the yard is ready again")
        after = submit(yard, "probe", {})
        assert history.finished(after)["state"] == State.SUCCEEDED


def state_of(yard: RunningYard, job_id: str) -> str:
    with yard.client() as client:
        return str(client.get(f"/v1/jobs/{job_id}").raise_for_status().json()["state"])
