"""Cancel races and drains under load (faults 24, 25)."""

import random
import signal

import httpx
import pytest
from sqlalchemy import select

from shared.contracts.jobs import State
from shared.db.models import Engine, Job
from tests.faults.history import History, inference, submit
from tests.support.polling import wait_until
from tests.support.yards import RunningYard

pytestmark = pytest.mark.faults

Both = tuple[RunningYard, History]


class TestCancel:
    def test_at_any_moment_ends_in_exactly_one_way(self, shared_yard: Both) -> None:
        yard, history = shared_yard
        chance = random.Random(7)
        ids = []
        with yard.client() as client:
            for _ in range(20):
                job_id = submit(yard, "inference", inference(6, tokens=40))
                ids.append(job_id)
                target = chance.choice(ids)
                for _ in range(chance.choice((1, 2))):  # twice is as good as once
                    client.post(f"/v1/jobs/{target}/cancel").raise_for_status()
        states = {history.finished(job_id)["state"] for job_id in ids}
        assert states <= {State.CANCELLED, State.SUCCEEDED}
        assert State.CANCELLED in states
        history.check(ids)

    def test_of_running_work_frees_the_engine_within_ten_seconds(self, shared_yard: Both) -> None:
        yard, history = shared_yard
        job_id = submit(yard, "inference", inference(200, tokens=400))
        wait_until(lambda: running(history) > 0, timeout=90, what="the engine generates")

        with yard.client() as client:
            client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()

        assert history.finished(job_id, timeout=10)["state"] == State.CANCELLED
        assert running(history) == 0, "cancelled was said while the engine was still busy"
        history.check([job_id])

    def test_while_the_worker_drains(self, shared_yard: Both) -> None:
        yard, history = shared_yard
        job_id = submit(yard, "inference", inference(200, tokens=200))
        history.await_lines(job_id, 1)
        old = yard.kill("worker", signal.SIGTERM)
        with yard.client() as client:
            client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
        assert history.finished(job_id)["state"] == State.CANCELLED
        yard.await_restart("worker", old=old)
        history.check([job_id])


class TestDrain:
    @pytest.mark.parametrize("signals", [1, 2])
    def test_under_load_releases_without_touching_counters(self, shared_yard: Both, signals: int) -> None:
        yard, history = shared_yard
        job_id = submit(yard, "inference", inference(150, tokens=64))
        history.await_lines(job_id, 10)

        old = yard.kill("worker", signal.SIGTERM)
        if signals == 2:
            yard.kill("worker", signal.SIGTERM)

        job = history.finished(job_id)
        assert (job["state"], job["lost_count"], job["failure_count"]) == (State.SUCCEEDED, 0, 0)
        assert job["attempt"] == 2
        yard.await_restart("worker", old=old)
        history.check([job_id])

    def test_a_planned_restart_keeps_the_engine(self, shared_yard: Both) -> None:
        yard, history = shared_yard
        assert history.finished(submit(yard, "inference", inference(2)))["state"] == State.SUCCEEDED
        before = engine(history).pid

        yard.cli("restart", "worker")

        job_id = submit(yard, "inference", inference(20))
        assert history.finished(job_id)["state"] == State.SUCCEEDED
        assert engine(history).pid == before, "the next worker adopted it"
        history.check([job_id])


class TestPause:
    def test_a_paused_job_stops_and_goes_on_where_it_was(self, shared_yard: Both) -> None:
        yard, history = shared_yard
        job_id = submit(yard, "inference", inference(150, tokens=64))
        history.await_lines(job_id, 10)
        with yard.client() as client:
            client.post(f"/v1/jobs/{job_id}/pause").raise_for_status()
            wait_until(lambda: row(history, job_id).state == State.QUEUED, timeout=30, what="the job was released")
            done = history.recorded(job_id)
            client.post(f"/v1/jobs/{job_id}/resume").raise_for_status()
        job = history.finished(job_id)
        assert (job["state"], job["failure_count"], job["lost_count"]) == (State.SUCCEEDED, 0, 0)
        assert history.recorded(job_id, attempt=1) == done
        history.check([job_id])


def row(history: History, job_id: str) -> Job:
    with history.database.transaction() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def engine(history: History) -> Engine:
    with history.database.transaction() as session:
        return session.scalars(select(Engine).where(Engine.state == "ready")).one()


def running(history: History) -> int:
    """Requests inside the engine, by its own figures."""
    try:
        asked = engine(history)
        transport = httpx.HTTPTransport(uds=asked.address.removeprefix("unix:"), verify=False)
        headers = {"Authorization": f"Bearer {asked.token}"}
        with httpx.Client(transport=transport, base_url="http://engine", timeout=5, headers=headers) as client:
            stats = client.get("/stats").raise_for_status().json()
    except Exception:  # noqa: BLE001 - no engine is ready yet
        return 0
    return int(stats["running"] + stats["waiting"])
