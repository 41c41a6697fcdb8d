"""Interleavings of everything that can happen to a few jobs, against the invariants of the lifecycle.

The machine keeps a small model (what each job's state may be) and every attempt it ever saw, so stale owners keep
writing, as zombies do. Invariants: no accepted job is lost, a terminal state never changes, at most one attempt
succeeds, no write of an old attempt is taken, each line is recorded once, events are numbered without gaps.
"""

from collections import Counter
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.jobs import lifecycle, repository
from services.jobs.types import Beat, Claim, Ending, LineRecord, Outcome
from shared.contracts.jobs import TERMINAL_EVENTS, State
from shared.db.models import Job, JobEvent
from shared.db.session import Database
from tests.services.jobs import build

LINES = 3


class Lifecycle(RuleBasedStateMachine):
    """One database, one tenant; `opened` is set by the test below."""

    opened: Database
    jobs = Bundle("jobs")
    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(self.opened.engine, expire_on_commit=False)
        self.tenant = build.tenant(self.session)
        self.accepted: list[UUID] = []
        self.current: dict[UUID, int] = {}
        self.final: dict[UUID, str] = {}
        self.recorded: dict[tuple[UUID, int], Any] = {}

    def teardown(self) -> None:
        self.session.rollback()
        self.session.execute(text("TRUNCATE tenants, workers CASCADE"))
        self.session.commit()
        self.session.close()

    @rule(target=jobs, held=st.booleans(), failures=st.integers(1, 3))
    def submit(self, held: bool, failures: int) -> UUID:
        made = build.job(
            self.session, self.tenant, held=held, max_failures=failures, lines=build.lines(LINES), max_lost=2
        )
        self.session.commit()
        self.accepted.append(made.id)
        return made.id

    @rule(target=jobs, first=jobs)
    def submit_after(self, first: UUID) -> UUID:
        before = self.session.get_one(Job, first, populate_existing=True, with_for_update=True)
        waits = not State(before.state).terminal
        made = build.job(self.session, self.tenant, after_job_id=first, blocked=waits)
        self.session.commit()
        self.accepted.append(made.id)
        return made.id

    @rule(target=attempts, limit=st.integers(1, 4))
    def claim(self, limit: int) -> tuple[Claim, ...]:
        claims = build.claim(self.session, limit=limit)
        self.session.commit()
        for claimed in claims:
            assert claimed.attempt == self.current.get(claimed.job_id, 0) + 1, "attempt grows by one"
            self.current[claimed.job_id] = claimed.attempt
        return tuple(claims)

    @rule(claims=attempts)
    def heartbeat(self, claims: tuple[Claim, ...]) -> None:
        answered = lifecycle.beat(self.session, [Beat(c.job_id, c.attempt) for c in claims])
        self.session.commit()
        assert all(self.current[job] == c.attempt for c in claims for job in answered if job == c.job_id)

    @rule(claims=attempts, line=st.integers(0, LINES - 1), word=st.text("ab", max_size=2))
    def record(self, claims: tuple[Claim, ...], line: int, word: str) -> None:
        records = [LineRecord(c.job_id, c.attempt, line, output={"text": word}) for c in claims]
        taken = lifecycle.record_lines(self.session, records)
        self.session.commit()
        for claimed in claims:
            if claimed.job_id in taken:
                assert claimed.attempt == self.current[claimed.job_id], "a stale attempt wrote a line"
                if repository.lines(self.session, self.tenant, claimed.job_id):
                    self.recorded.setdefault((claimed.job_id, line), {"text": word})

    @rule(claims=attempts, outcome=st.sampled_from(list(Outcome)), permanent=st.booleans())
    def end(self, claims: tuple[Claim, ...], outcome: Outcome, permanent: bool) -> None:
        endings = [
            Ending(c.job_id, c.attempt, outcome, error=build.BOOM, permanent=permanent, retry_after_s=0) for c in claims
        ]
        ended = lifecycle.end(self.session, endings)
        self.session.commit()
        for result in ended:
            (claimed,) = [c for c in claims if c.job_id == result.job_id]
            assert claimed.attempt == self.current[result.job_id], "a stale attempt ended the job"

    @rule(job=jobs)
    def lease_runs_out(self, job: UUID) -> None:
        self.session.execute(
            text("""UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 hour'
                    WHERE id = :id AND state = 'running'"""),
            {"id": job},
        )
        lifecycle.reap(self.session)
        self.session.commit()

    @rule(job=jobs)
    def deadline_passes(self, job: UUID) -> None:
        self.session.execute(
            text("""UPDATE jobs SET deadline_at = clock_timestamp() - interval '1 hour'
                    WHERE id = :id AND finished_at IS NULL"""),
            {"id": job},
        )
        lifecycle.expire_overdue(self.session)
        self.session.commit()

    @rule(job=jobs)
    def cancel(self, job: UUID) -> None:
        lifecycle.cancel(self.session, self.tenant, job, reason="requested")
        self.session.commit()
        row = self.session.get_one(Job, job, populate_existing=True)
        assert State(row.state).terminal or row.cancel_requested_at is not None

    @rule(job=jobs)
    def pause(self, job: UUID) -> None:
        lifecycle.hold(self.session, self.tenant, job)
        self.session.commit()

    @rule(job=jobs)
    def resume(self, job: UUID) -> None:
        lifecycle.resume(self.session, self.tenant, job)
        self.session.commit()

    @invariant()
    def every_job_is_where_it_may_be(self) -> None:
        rows = {row.id: row for row in self.session.query(Job).populate_existing()}
        assert set(rows) == set(self.accepted), "an accepted job was lost"
        for job, row in rows.items():
            assert self.final.get(job, row.state) == row.state, "a terminal state changed"
            assert row.attempt == self.current.get(job, 0)
            if State(row.state).terminal:
                self.final[job] = row.state
            if row.blocked and not State(row.state).terminal:
                assert rows[row.after_job_id].state not in ("failed", "cancelled", "expired")  # type: ignore[index]

    @invariant()
    def events_are_numbered_and_end_once(self) -> None:
        by_job: dict[UUID, list[JobEvent]] = {}
        for event in self.session.query(JobEvent).order_by(JobEvent.job_id, JobEvent.seq):
            by_job.setdefault(event.job_id, []).append(event)
        for job, events in by_job.items():
            assert [e.seq for e in events] == list(range(1, len(events) + 1))
            ends = Counter(e.type for e in events if e.type in {str(t) for t in TERMINAL_EVENTS})
            finished = State(self.session.get_one(Job, job).state).terminal
            assert sum(ends.values()) == finished

    @invariant()
    def lines_are_recorded_once(self) -> None:
        for (job, line), output in self.recorded.items():
            (row,) = [i for i in repository.lines(self.session, self.tenant, job) if i.line_no == line]
            assert row.output == output


@pytest.mark.parametrize("seed", range(2))
def test_lifecycle_under_every_interleaving(database: Database, seed: int) -> None:
    Lifecycle.opened = database
    run_state_machine_as_test(
        Lifecycle,
        settings=hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=seed == 0),
    )
