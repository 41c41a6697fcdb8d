"""Rows of calls: written already running, renewed together, ended once, and nobody's to queue."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.jobs import explain, lifecycle, repository, service, views
from services.jobs.types import Ending, Outcome, Placed
from shared.contracts.jobs import JobError, JobRequest, State, Usage
from shared.db.models import Job
from shared.errors import InvalidField
from shared.ids import new_id
from tests.services.jobs import build

GATEWAY = new_id()
BROKEN = JobError(code="engine_lost", title="Engines died repeatedly under this call")


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


def place(session: Session, tenant: UUID, *, owner: UUID = GATEWAY) -> UUID:
    call = Placed(
        id=new_id(),
        tenant_id=tenant,
        kind="call",
        spec={"model": "tiny", "endpoint": "/v1/completions", "stream": False, "parameters": {}},
        gpu_class="cpu",
        queue="cpu.serve",
        devices=1,
        priority=5,
        plan={"reason": "placed"},
    )
    lifecycle.place(session, [call], owner=owner)
    return call.id


def get(session: Session, job: UUID) -> Job:
    return session.get_one(Job, job, populate_existing=True)


def end(session: Session, job: UUID, outcome: Outcome, **extra: Any) -> Job:
    lifecycle.end(session, [Ending(job, 1, outcome, permanent=True, **extra)])
    return get(session, job)


class TestPlace:
    def test_a_call_is_born_running(self, session: Session, tenant: UUID) -> None:
        job = get(session, place(session, tenant))
        assert (job.state, job.attempt, job.driver, job.tier) == (State.RUNNING, 1, "gateway", 0)
        assert job.lease_owner == GATEWAY
        assert [event.type for event in repository.events(session, tenant, job.id)] == ["job.queued", "job.started"]
        assert [each.worker_id for each in repository.attempts(session, tenant, job.id)] == [GATEWAY]
        assert explain.explain(session, job).cause is explain.Cause.RUNNING
        assert views.one(session, tenant, job.id).results is None

    def test_no_worker_is_rung_for_it_and_no_share_is_charged(self, session: Session, tenant: UUID) -> None:
        end(session, place(session, tenant), Outcome.SUCCEEDED, usage=Usage(gpu_seconds=5))
        for table in ("outbox", "fair_shares"):
            assert session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0

    def test_nobody_submits_one(self, session: Session, tenant: UUID) -> None:
        with pytest.raises(InvalidField) as caught:
            service.submit(session, tenant, JobRequest(kind="call", spec={"model": "tiny"}))
        assert caught.value.param == "kind"

    def test_nobody_runs_one_again(self, session: Session, tenant: UUID) -> None:
        job = end(session, place(session, tenant), Outcome.FAILED, error=BROKEN)
        with pytest.raises(InvalidField):
            service.retry(session, tenant, job.id)


class TestEnd:
    def test_success_counts_what_it_took(self, session: Session, tenant: UUID) -> None:
        spent = Usage(prompt_tokens=3, completion_tokens=4, gpu_seconds=0.5, cost=0.1)
        job = end(session, place(session, tenant), Outcome.SUCCEEDED, usage=spent)
        assert (job.state, job.prompt_tokens, job.completion_tokens, job.gpu_seconds) == ("succeeded", 3, 4, 0.5)
        assert session.execute(text("SELECT completion_tokens FROM usage")).scalar_one() == 4

    @pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.LOST, Outcome.RELEASED])
    def test_whatever_goes_wrong_it_is_never_queued(self, session: Session, tenant: UUID, outcome: Outcome) -> None:
        job = end(session, place(session, tenant), outcome, error=BROKEN)
        assert (job.state, (job.error or {})["code"]) == ("failed", "engine_lost")

    def test_a_client_that_hangs_up_cancels_it(self, session: Session, tenant: UUID) -> None:
        assert end(session, place(session, tenant), Outcome.CANCELLED, error=BROKEN).state == "cancelled"


class TestLeases:
    def test_are_renewed_together_and_tell_of_cancels(self, session: Session, tenant: UUID) -> None:
        jobs = [place(session, tenant) for _ in range(3)]
        service.cancel(session, tenant, jobs[1])
        session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp()"))
        assert lifecycle.renew(session, GATEWAY, jobs) == [jobs[1]]
        assert lifecycle.reap(session) == 0

    def test_another_gateways_calls_are_left_alone(self, session: Session, tenant: UUID) -> None:
        job = place(session, tenant, owner=new_id())
        before = get(session, job).lease_expires_at
        lifecycle.renew(session, GATEWAY, [job])
        assert get(session, job).lease_expires_at == before

    def test_a_dead_gateways_calls_end_as_client_gone(self, session: Session, tenant: UUID) -> None:
        job = place(session, tenant)
        session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 hour'"))
        assert lifecycle.reap(session) == 1
        lost = get(session, job)
        assert (lost.state, (lost.error or {})["code"]) == ("failed", "client_gone")
