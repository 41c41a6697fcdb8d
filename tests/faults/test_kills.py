"""`kill -9` of every process in the middle of a job, on one yard: no hand is lent (faults 1–3, 8, 12)."""

import os
import signal
import uuid

import psutil
import pytest
from sqlalchemy import select

from shared.contracts.jobs import State
from shared.db.models import Engine, Job
from tests.faults.history import History, inference, submit
from tests.support.polling import wait_until
from tests.support.yards import RunningYard

pytestmark = pytest.mark.faults
LINES = 120

Both = tuple[RunningYard, History]


def engine_pid(history: History) -> int:
    with history.database.transaction() as session:
        return session.scalars(select(Engine.pid).where(Engine.state == "ready")).one()


class TestKill:
    def test_of_the_worker_goes_on_at_the_first_unfinished_line(self, shared_yard: Both) -> None:
        yard, history = shared_yard
        job_id = submit(yard, "inference", inference(200, tokens=64))
        history.await_lines(job_id, 20)
        old = psutil.Process(yard.pids("worker")[0])
        family = [old, *old.children(recursive=True)]

        yard.kill("worker")

        job = history.finished(job_id)
        assert (job["state"], job["attempt"] >= 2) == (State.SUCCEEDED, True)
        assert history.recorded(job_id, attempt=1) >= 20
        assert not [p for p in family if p.is_running()], "a process of the old worker is left"
        history.check([job_id])

    def test_of_the_engine(self, shared_yard: Both) -> None:
        yard, history = shared_yard
        job_id = submit(yard, "inference", inference(LINES))
        history.await_lines(job_id, 10)

        os.kill(engine_pid(history), signal.SIGKILL)

        assert history.finished(job_id)["state"] == State.SUCCEEDED
        history.check([job_id])

    @pytest.mark.parametrize("role", ["relay", "courier", "broker", "cache", "store", "gateway"])
    def test_of_anybody_else_costs_no_attempt(self, shared_yard: Both, role: str) -> None:
        yard, history = shared_yard
        job_id = submit(yard, "inference", inference(LINES))
        history.await_lines(job_id, 10)

        old = yard.kill(role)
        during = submit(yard, "probe", {}, key=str(uuid.uuid4()))

        jobs = [history.finished(job_id), history.finished(during)]
        assert [job["state"] for job in jobs] == [State.SUCCEEDED, State.SUCCEEDED]
        assert [job["attempt"] for job in jobs] == [1, 1]
        history.check([job_id, during])
        yard.await_restart(role, old=old)

    @pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGQUIT], ids=["kill", "fast", "immediate"])
    def test_of_postgres_loses_nothing_and_reaps_nobody(self, shared_yard: Both, stop: signal.Signals) -> None:
        yard, history = shared_yard
        job_id = submit(yard, "inference", inference(LINES))
        history.await_lines(job_id, 10)

        old = yard.kill("postgres", stop)
        during = submit(yard, "probe", {}, key=str(uuid.uuid4()))

        assert history.finished(job_id)["state"] == State.SUCCEEDED
        assert history.finished(during)["state"] == State.SUCCEEDED
        yard.await_restart("postgres", old=old)
        history.check([job_id, during])
        with history.database.transaction() as session:
            assert session.get_one(Job, uuid.UUID(job_id)).lost_count == 0, "a living worker was reaped"

    def test_of_a_forge_is_tried_again_and_leaves_no_process(self, shared_yard: Both) -> None:
        yard, history = shared_yard
        spec = {"steps": 20, "step_seconds": 0.1, "checkpoint_every": 4, "pool": "forge"}
        job_id = submit(yard, "probe", spec)
        wait_until(lambda: forges(yard), timeout=30, what="the forge runs")

        for process in forges(yard):
            process.kill()

        job = history.finished(job_id)
        assert (job["state"], job["attempt"]) == (State.SUCCEEDED, 2)
        assert forges(yard) == []
        history.check([job_id])

    def test_of_everything_at_once(self, shared_yard: Both) -> None:
        yard, history = shared_yard
        job_id = submit(yard, "inference", inference(LINES))
        history.await_lines(job_id, 10)
        pids = [pid for role in yard.state.pids.values() for pid in role]

        for pid in [yard.state.pid, *pids]:
            os.kill(pid, signal.SIGKILL)
        yard.up()

        assert history.finished(job_id)["state"] == State.SUCCEEDED
        history.check([job_id])


def forges(yard: RunningYard) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(yard.pids("worker")[0]).children(recursive=True):
        try:
            found += [process] if "workers.forge.probe" in process.cmdline() else []
        except psutil.Error:
            continue
    return found
