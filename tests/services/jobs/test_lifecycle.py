"""The moves of a job, each through the real SQL: claim, heartbeat, lines, ends, cancel, pause, chains, families."""

from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from services.jobs import lifecycle, repository, service
from services.jobs.types import Beat, LineRecord, Outcome, Saved
from shared.contracts.jobs import State, Usage
from shared.db.models import Attempt, ControlTask, Job, JobEvent, Outbox, UsageRow
from shared.db.session import Database
from shared.errors import Fenced
from shared.ids import new_id
from tests.services.jobs import build


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


def expire_lease(session: Session, job_id: UUID) -> None:
    session.execute(
        text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 hour' WHERE id = :id"),
        {"id": job_id},
    )


def events_of(session: Session, job: Job) -> list[str]:
    return [event.type for event in repository.events(session, job.tenant_id, job.id)]


class TestClaim:
    def test_claim_moves_to_running_with_attempt_and_lease(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        worker = new_id()
        (claimed,) = build.claim(session, worker=worker)
        row = session.get_one(Job, job.id, populate_existing=True)
        assert (claimed.job_id, claimed.attempt, row.state) == (job.id, 1, State.RUNNING)
        assert row.lease_owner == worker
        assert row.lease_expires_at is not None
        assert session.get_one(Attempt, (job.id, 1)).worker_id == worker
        assert events_of(session, job) == ["job.queued", "job.started"]

    def test_second_claim_gets_nothing(self, session: Session, tenant: UUID) -> None:
        build.job(session, tenant)
        assert len(build.claim(session)) == 1
        assert build.claim(session) == []

    def test_two_claimers_at_once_share_without_waiting(
        self, session: Session, database: Database, tenant: UUID
    ) -> None:
        for _ in range(4):
            build.job(session, tenant)
            build.job(session, build.tenant(session))
        session.commit()
        with Session(database.engine) as one, Session(database.engine) as two:
            first = build.claim(one, limit=2)
            second = build.claim(two, limit=8)
            assert {c.job_id for c in first}.isdisjoint(c.job_id for c in second)
            assert len(first) == 2
            assert second  # the tenants that the first claim did not touch

    @pytest.mark.parametrize("why", ["held", "blocked", "later", "cancelled", "late"])
    def test_what_is_not_due_is_not_claimed(self, session: Session, tenant: UUID, why: str) -> None:
        job = build.job(session, tenant, held=why == "held", blocked=why == "blocked")
        moves = {
            "later": "UPDATE jobs SET run_after = clock_timestamp() + interval '1 hour' WHERE id = :id",
            "cancelled": "UPDATE jobs SET cancel_requested_at = clock_timestamp() WHERE id = :id",
            "late": "UPDATE jobs SET deadline_at = clock_timestamp() - interval '1 second' WHERE id = :id",
        }
        if why in moves:
            session.execute(text(moves[why]), {"id": job.id})
        assert build.claim(session) == []


class TestHeartbeat:
    def test_beat_renews_and_reports_orders(self, session: Session, tenant: UUID) -> None:
        build.job(session, tenant)
        (claimed,) = build.claim(session)
        orders = lifecycle.beat(session, [Beat(claimed.job_id, claimed.attempt, done=3, total=9, unit="steps")])
        assert not orders[claimed.job_id].cancel
        row = session.get_one(Job, claimed.job_id, populate_existing=True)
        assert (row.progress_done, row.progress_total, row.progress_unit) == (3, 9, "steps")

    def test_a_stale_attempt_gets_no_answer(self, session: Session, tenant: UUID) -> None:
        build.job(session, tenant)
        (zombie,) = build.claim(session)
        expire_lease(session, zombie.job_id)
        assert lifecycle.reap(session) == 1
        build.claim(session)
        assert lifecycle.beat(session, [Beat(zombie.job_id, zombie.attempt)]) == {}


class TestFence:
    def test_only_the_current_attempt_writes_children(self, session: Session, tenant: UUID) -> None:
        build.job(session, tenant, lines=build.lines(2))
        (zombie,) = build.claim(session)
        expire_lease(session, zombie.job_id)
        lifecycle.reap(session)
        (current,) = build.claim(session)
        with pytest.raises(Fenced), lifecycle.fenced(session, zombie.job_id, zombie.attempt):
            pass
        stale = LineRecord(zombie.job_id, zombie.attempt, 0, output={"text": "zombie"})
        assert lifecycle.record_lines(session, [stale]) == set()
        fresh = LineRecord(current.job_id, current.attempt, 0, output={"text": "alive"})
        assert lifecycle.record_lines(session, [fresh]) == {current.job_id}
        assert lifecycle.end(session, [build.ending(zombie, Outcome.SUCCEEDED)]) == []
        assert build.state(session, zombie.job_id) == State.RUNNING

    def test_the_database_itself_refuses_a_stale_checkpoint(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        with pytest.raises(DBAPIError, match="is not running"):
            session.execute(
                text("""INSERT INTO checkpoints (id, job_id, tenant_id, attempt, step, fingerprint, manifest)
                        VALUES (:id, :job, :tenant, 1, 1, '', '[]')"""),
                {"id": new_id(), "job": job.id, "tenant": tenant},
            )

    def test_checkpoint_moves_the_pointer_and_tells(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        (claimed,) = build.claim(session)
        made = lifecycle.checkpoint(session, claimed, Saved(step=5, fingerprint="f", manifest=[]))
        assert session.get_one(Job, job.id, populate_existing=True).checkpoint_id == made
        assert events_of(session, job)[-1] == "job.checkpoint"


class TestLines:
    def test_a_line_is_recorded_once(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant, lines=build.lines(3))
        (claimed,) = build.claim(session)
        first = LineRecord(job.id, claimed.attempt, 1, output={"text": "first"})
        again = LineRecord(job.id, claimed.attempt, 1, output={"text": "again"})
        lifecycle.record_lines(session, [first])
        lifecycle.record_lines(session, [again])
        row = session.get_one(Job, job.id, populate_existing=True)
        recorded = repository.lines(session, tenant, job.id)
        assert row.progress_done == 1
        assert [line.output for line in recorded] == [None, {"text": "first"}, None]
        assert [line.line_no for line in repository.lines(session, tenant, job.id, pending=True)] == [0, 2]

    def test_a_recorded_line_cannot_change(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant, lines=build.lines(1))
        (claimed,) = build.claim(session)
        lifecycle.record_lines(session, [LineRecord(job.id, claimed.attempt, 0, output={"text": "once"})])
        with pytest.raises(DBAPIError, match="recorded already"):
            session.execute(text("UPDATE job_items SET output = '{}' WHERE job_id = :id"), {"id": job.id})

    def test_usage_is_the_sum_of_the_lines_of_the_attempt(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant, lines=build.lines(2))
        (claimed,) = build.claim(session)
        usage = {"prompt_tokens": 5, "completion_tokens": 7}
        for number in (0, 1):
            record = LineRecord(job.id, claimed.attempt, number, output={"text": "", "usage": usage})
            lifecycle.record_lines(session, [record])
        lifecycle.end(session, [build.ending(claimed, Outcome.SUCCEEDED, usage=Usage(gpu_seconds=2, cost=0.5))])
        row = session.get_one(Job, job.id, populate_existing=True)
        assert (row.prompt_tokens, row.completion_tokens, row.gpu_seconds, row.cost) == (10, 14, 2, 0.5)
        assert session.get_one(UsageRow, (job.id, 1)).completion_tokens == 14


class TestEnd:
    def test_success_is_final(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        (claimed,) = build.claim(session)
        (ended,) = lifecycle.end(session, [build.ending(claimed, Outcome.SUCCEEDED)])
        assert ended.state is State.SUCCEEDED
        assert lifecycle.end(session, [build.ending(claimed, Outcome.FAILED)]) == []
        with pytest.raises(DBAPIError, match="never changes"):
            session.execute(text("UPDATE jobs SET state = 'queued', finished_at = NULL WHERE id = :id"), {"id": job.id})

    def test_failures_are_retried_with_backoff_then_final(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant, max_failures=2)
        (first,) = build.claim(session)
        assert lifecycle.end(session, [build.ending(first, Outcome.FAILED)])[0].state is State.QUEUED
        assert build.claim(session) == []  # backs off
        session.execute(text("UPDATE jobs SET run_after = clock_timestamp()"))
        (second,) = build.claim(session)
        assert second.attempt == 2
        assert lifecycle.end(session, [build.ending(second, Outcome.FAILED)])[0].state is State.FAILED
        row = session.get_one(Job, job.id, populate_existing=True)
        assert (row.failure_count, row.lost_count, row.error and row.error["code"]) == (2, 0, "boom")

    def test_a_permanent_failure_is_not_retried(self, session: Session, tenant: UUID) -> None:
        build.job(session, tenant)
        (claimed,) = build.claim(session)
        assert lifecycle.end(session, [build.ending(claimed, Outcome.FAILED, permanent=True)])[0].state is State.FAILED

    def test_release_moves_no_counter_and_rings(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        (claimed,) = build.claim(session)
        session.execute(text("DELETE FROM outbox"))
        lifecycle.end(session, [build.ending(claimed, Outcome.RELEASED)])
        row = session.get_one(Job, job.id, populate_existing=True)
        assert (row.state, row.failure_count, row.lost_count) == (State.QUEUED, 0, 0)
        assert session.query(Outbox).count() == 1

    def test_a_group_ends_together_and_leaves_the_stale_out(self, session: Session, tenant: UUID) -> None:
        for _ in range(5):
            build.job(session, tenant)
        claims = build.claim(session, limit=5)
        lifecycle.end(session, [build.ending(claims[0], Outcome.SUCCEEDED)])
        ended = lifecycle.end(session, [build.ending(claimed, Outcome.SUCCEEDED) for claimed in claims])
        assert {e.job_id for e in ended} == {c.job_id for c in claims[1:]}


class TestLost:
    def test_lost_too_often_without_progress_fails(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant, max_lost=2)
        for expected in (State.QUEUED, State.FAILED):
            (claimed,) = build.claim(session)
            expire_lease(session, claimed.job_id)
            lifecycle.reap(session)
            assert build.state(session, job.id) == expected
        assert session.get_one(Job, job.id).error["code"] == "worker_lost"  # type: ignore[index]

    def test_an_attempt_that_kept_a_checkpoint_has_got_further(self, session: Session, tenant: UUID) -> None:
        """Steps that an earlier attempt had done already say nothing: the next one begins at the checkpoint."""
        job = build.job(session, tenant, max_lost=2)
        for attempt, kept in enumerate((0, 20, 40, 0), 1):
            (claimed,) = build.claim(session)
            lifecycle.beat(session, [Beat(job.id, claimed.attempt, done=100 if attempt == 1 else 50)])
            if kept:
                lifecycle.checkpoint(session, claimed, Saved(step=kept, fingerprint="f", manifest=[]))
            (ended,) = lifecycle.end(session, [build.ending(claimed, Outcome.LOST)])
            row = session.get_one(Job, job.id, populate_existing=True)
            assert (row.lost_count, ended.state) == ((1, State.QUEUED) if attempt < 4 else (2, State.FAILED))

    def test_an_attempt_that_got_further_starts_the_count_again(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant, max_lost=2, lines=build.lines(9))
        for number in range(5):
            (claimed,) = build.claim(session)
            lifecycle.record_lines(session, [LineRecord(job.id, claimed.attempt, number, output={"text": ""})])
            expire_lease(session, job.id)
            lifecycle.reap(session)
        assert build.state(session, job.id) == State.QUEUED

    def test_a_living_lease_is_left_alone(self, session: Session, tenant: UUID) -> None:
        build.job(session, tenant)
        build.claim(session)
        assert lifecycle.reap(session) == 0

    def test_a_dead_workers_jobs_come_back_at_once(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        dead = new_id()
        build.claim(session, worker=dead)
        assert lifecycle.release_owned(session, [dead]) == 1
        assert build.state(session, job.id) == State.QUEUED


class TestCancel:
    def test_a_waiting_job_is_cancelled_at_once(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        lifecycle.cancel(session, tenant, job.id, reason="requested")
        assert build.state(session, job.id) == State.CANCELLED
        assert events_of(session, job) == ["job.queued", "job.cancelled"]

    def test_a_running_job_gets_the_flag_and_ends_cancelled(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        (claimed,) = build.claim(session)
        lifecycle.cancel(session, tenant, job.id, reason="requested")
        lifecycle.cancel(session, tenant, job.id, reason="again")
        assert build.state(session, job.id) == State.RUNNING
        assert lifecycle.beat(session, [Beat(job.id, 1)])[job.id].cancel
        assert lifecycle.end(session, [build.ending(claimed, Outcome.FAILED)])[0].state is State.CANCELLED
        assert events_of(session, job) == [
            "job.queued",
            "job.started",
            "job.cancel_requested",
            "job.cancelled",
        ]

    def test_a_finished_job_beats_a_late_cancel(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        (claimed,) = build.claim(session)
        lifecycle.cancel(session, tenant, job.id, reason="requested")
        assert lifecycle.end(session, [build.ending(claimed, Outcome.SUCCEEDED)])[0].state is State.SUCCEEDED

    def test_another_tenants_job_is_untouched(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        lifecycle.cancel(session, build.tenant(session), job.id, reason="requested")
        assert build.state(session, job.id) == State.QUEUED


class TestPause:
    def test_a_paused_job_waits_until_it_is_resumed(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        lifecycle.hold(session, tenant, job.id)
        assert build.claim(session) == []
        lifecycle.resume(session, tenant, job.id)
        assert len(build.claim(session)) == 1
        assert events_of(session, job) == ["job.queued", "job.paused", "job.resumed", "job.started"]

    def test_a_running_job_is_released_and_held(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        (claimed,) = build.claim(session)
        lifecycle.hold(session, tenant, job.id)
        assert lifecycle.beat(session, [Beat(job.id, 1)])[job.id].hold
        lifecycle.end(session, [build.ending(claimed, Outcome.RELEASED)])
        assert build.claim(session) == []
        assert events_of(session, job)[-1] == "job.paused"


class TestDeadline:
    def test_queued_and_running_jobs_expire(self, session: Session, tenant: UUID) -> None:
        running, queued = build.job(session, tenant), build.job(session, tenant)
        (claimed,) = build.claim(session)
        assert claimed.job_id == running.id
        session.execute(text("UPDATE jobs SET deadline_at = clock_timestamp() - interval '1 hour'"))
        assert lifecycle.expire_overdue(session) == 2
        assert build.state(session, running.id) == build.state(session, queued.id) == State.EXPIRED


class TestChain:
    def test_a_later_job_waits_for_success(self, session: Session, tenant: UUID) -> None:
        first = build.job(session, tenant)
        second = build.job(session, tenant, after_job_id=first.id, blocked=True)
        (claimed,) = build.claim(session, limit=2)
        lifecycle.end(session, [build.ending(claimed, Outcome.SUCCEEDED)])
        (next_,) = build.claim(session, limit=2)
        assert next_.job_id == second.id

    def test_a_failure_cancels_the_whole_chain_with_its_cause(self, session: Session, tenant: UUID) -> None:
        first = build.job(session, tenant)
        second = build.job(session, tenant, after_job_id=first.id, blocked=True)
        third = build.job(session, tenant, after_job_id=second.id, blocked=True)
        (claimed,) = build.claim(session)
        lifecycle.end(session, [build.ending(claimed, Outcome.FAILED, permanent=True)])
        rows = [session.get_one(Job, j.id, populate_existing=True) for j in (second, third)]
        assert [row.state for row in rows] == [State.CANCELLED, State.CANCELLED]
        assert [row.error and row.error["cause"] for row in rows] == [str(first.id), str(second.id)]


class TestFamily:
    @pytest.fixture
    def parent(self, session: Session, tenant: UUID) -> Job:
        job = build.job(session, tenant, driver="children", progress_total=2500)
        service.add_children(session, job, build.lines(2500), first_line=0)
        lifecycle.start_parent(session, job.id, owner=job.id)
        return job

    def test_a_long_job_becomes_children_of_a_thousand_lines(self, session: Session, parent: Job) -> None:
        children = repository.page(session, parent.tenant_id, limit=10, parent_id=parent.id)
        assert sorted(child.progress_total or 0 for child in children) == [500, 1000, 1000]
        first_lines = [repository.lines(session, parent.tenant_id, c.id, limit=1)[0].line_no for c in children]
        assert sorted(first_lines) == [0, 1000, 2000]

    def test_the_last_child_puts_the_merge_on_control(self, session: Session, parent: Job) -> None:
        claims = build.claim(session, limit=3000)
        lifecycle.end(session, [build.ending(claimed, Outcome.SUCCEEDED) for claimed in claims[:2]])
        assert session.query(ControlTask).count() == 0
        lifecycle.end(session, [build.ending(claims[2], Outcome.SUCCEEDED)])
        assert session.query(ControlTask).one().kind == "merge"

    def test_cancel_reaches_every_child(self, session: Session, parent: Job) -> None:
        build.claim(session, limit=1)
        lifecycle.cancel(session, parent.tenant_id, parent.id, reason="requested")
        children = repository.page(session, parent.tenant_id, limit=10, parent_id=parent.id)
        assert sorted(child.state for child in children) == ["cancelled", "cancelled", "running"]
        assert all(child.cancel_requested_at for child in children)


class TestEvents:
    def test_numbers_have_no_gap_and_cannot_be_rewritten(self, session: Session, tenant: UUID) -> None:
        job = build.job(session, tenant)
        (claimed,) = build.claim(session)
        lifecycle.end(session, [build.ending(claimed, Outcome.RELEASED)])
        assert [e.seq for e in repository.events(session, tenant, job.id)] == [1, 2, 3]
        with pytest.raises(DBAPIError, match="append-only"):
            session.query(JobEvent).update({"type": "forged"})
