"""Why a job is where it is."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.jobs import lifecycle
from services.jobs.explain import Cause, Explanation, explain
from services.jobs.types import Outcome
from services.workers import service as workers
from services.workers.types import Slots
from shared.clock import utc_now
from shared.contracts.jobs import Driver, Pool, Tier
from shared.db.models import Job
from tests.services.jobs import build


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


def worker(session: Session, *, free: int = 1, draining: bool = False) -> None:
    slots = {Pool.SERVE: Slots(free, 4)}
    boot = workers.describe("cpu", pools=[Pool.SERVE], devices=[0], slots=slots)
    workers.register(session, boot)
    workers.heartbeat(session, boot.id, slots=slots, draining=draining)


def told(session: Session, job: Job) -> Explanation:
    return explain(session, session.get_one(Job, job.id, populate_existing=True))


class TestCause:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"held": True}, (Cause.HELD, "resume")),
            ({"run_after": utc_now() + timedelta(hours=1)}, (Cause.NOT_YET, "run_after is")),
            ({"deadline_at": utc_now() - timedelta(hours=1)}, (Cause.OVERDUE, "deadline has passed")),
            ({"driver": Driver.CHILDREN}, (Cause.EXPANDING, "child jobs")),
        ],
    )
    def test_a_job_may_keep_itself_back(
        self, session: Session, tenant: UUID, fields: dict[str, Any], expected: tuple[Cause, str]
    ) -> None:
        worker(session)
        found = told(session, build.job(session, tenant, **fields))
        assert (found.cause, found.position) == (expected[0], None)
        assert expected[1] in found.sentence

    def test_a_chained_job_names_the_one_it_waits_for(self, session: Session, tenant: UUID) -> None:
        first = build.job(session, tenant)
        found = told(session, build.job(session, tenant, blocked=True, after_job_id=first.id))
        assert (found.cause, found.waits_for) == (Cause.BLOCKED, first.id)
        assert str(first.id) in found.sentence

    def test_after_a_failure_it_waits_for_its_next_attempt(self, session: Session, tenant: UUID) -> None:
        worker(session)
        job = build.job(session, tenant)
        (claimed,) = build.claim(session)
        lifecycle.end(session, [build.ending(claimed, Outcome.FAILED, retry_after_s=60)])
        found = told(session, job)
        assert found.cause == Cause.RETRY_BACKOFF
        assert found.starts_in_s == pytest.approx(60, abs=5)

    def test_without_a_worker_it_says_so(self, session: Session, tenant: UUID) -> None:
        found = told(session, build.job(session, tenant))
        assert (found.cause, found.live_workers, found.position) == (Cause.NO_WORKER, 0, 1)
        assert "No live worker serves cpu.serve" in found.sentence

    def test_workers_that_are_going_take_nothing(self, session: Session, tenant: UUID) -> None:
        worker(session, draining=True)
        assert told(session, build.job(session, tenant)).cause == Cause.WORKER_DRAINING

    def test_the_first_in_line_waits_for_a_slot(self, session: Session, tenant: UUID) -> None:
        worker(session, free=0)
        found = told(session, build.job(session, tenant))
        assert (found.cause, found.position, found.free_slots) == (Cause.NEXT, 1, 0)

    def test_a_running_job_does_not_wait(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        build.claim(session)
        found = told(session, job)
        assert (found.cause, found.position, found.ahead) == (Cause.RUNNING, None, {})

    def test_a_finished_job_is_told_so(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        lifecycle.cancel(session, tenant, job.id, reason="requested")
        found = told(session, job)
        assert (found.cause, found.sentence) == (Cause.FINISHED, "The job has ended: cancelled.")

    def test_a_parent_counts_its_children(self, session: Session, tenant: UUID) -> None:
        parent = build.job(session, tenant, driver=Driver.CHILDREN)
        for _ in range(3):
            build.job(session, tenant, parent_id=parent.id)
        lifecycle.start_parent(session, parent.id, owner=parent.id)
        (claimed,) = build.claim(session)
        lifecycle.end(session, [build.ending(claimed, Outcome.SUCCEEDED)])
        found = told(session, parent)
        assert (found.cause, found.children, found.children_ended) == (Cause.PARENT_RUNNING, 3, 1)


class TestPlace:
    def test_jobs_ahead_are_counted_by_tier(self, session: Session, tenant: UUID) -> None:
        worker(session)
        for tier in (0, 0, 1, 1, 1, 2):
            build.job(session, tenant, tier=tier)
        job = build.job(session, tenant, tier=1)
        build.job(session, tenant, tier=1)
        found = told(session, job)
        assert (found.cause, found.position, found.depth) == (Cause.AHEAD, 6, 8)
        assert found.ahead == {Tier.INTERACTIVE: 2, Tier.NORMAL: 3}
        assert found.sentence == "5 jobs go first in cpu.serve."

    def test_the_tenants_share_is_shown(self, session: Session) -> None:
        tenant = build.tenant(session, weight=2)
        build.job(session, tenant, planned_gpu_s=8.0)
        build.claim(session)
        share = told(session, build.job(session, tenant)).share
        assert (share.weight, share.virtual_time, share.queue_virtual_time) == (2, 4, 0)

    def test_the_plan_is_shown(self, session: Session, tenant: UUID) -> None:
        assert told(session, build.job(session, tenant, plan={"reason": "as asked"})).plan == {"reason": "as asked"}

    def test_another_queues_backlog_does_not_count(self, session: Session, tenant: UUID) -> None:
        worker(session)
        build.job(session, tenant, queue="h200.serve", tier=0)
        found = told(session, build.job(session, tenant))
        assert (found.position, found.depth) == (1, 1)

    def test_it_changes_nothing(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        version = job.version
        told(session, job)
        assert session.execute(text("SELECT version FROM jobs")).scalar_one() == version
