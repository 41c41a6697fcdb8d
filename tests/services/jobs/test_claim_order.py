"""The order of the queue: tiers are strict, tenants share by weight, a tenant's own jobs go by priority and age."""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.jobs import lifecycle, queue_repository
from services.jobs.types import Claim, Outcome
from shared.clock import utc_now
from shared.contracts.jobs import Usage
from shared.ids import new_id
from tests.services.jobs import build

BACKLOG = 10_000
CLAIM_MS = 50


def drain(session: Session, *, limit: int = 1) -> list[Claim]:
    """Claim until nothing is due, `limit` at a time."""
    order: list[Claim] = []
    while claims := build.claim(session, limit=limit):
        order += claims
    return order


def ids(claims: list[Claim]) -> list[UUID]:
    return [claim.job_id for claim in claims]


def positions(session: Session, jobs: list[UUID]) -> list[int | None]:
    return [queue_repository.position(session, job, queue=build.QUEUE) for job in jobs]


class TestTiers:
    def test_are_strict(self, session: Session) -> None:
        one, other = build.tenant(session), build.tenant(session, weight=100)
        batch = build.job(session, other, tier=2, priority=9).id
        normal = build.job(session, one, tier=1, priority=0).id
        interactive = build.job(session, one, tier=0, priority=0).id
        assert ids(drain(session)) == [interactive, normal, batch]


class TestOneTenant:
    def test_goes_by_priority_then_deadline_then_age(self, session: Session) -> None:
        tenant, now = build.tenant(session), utc_now()
        old = build.job(session, tenant).id
        young = build.job(session, tenant).id
        late = build.job(session, tenant, deadline_at=now + timedelta(hours=2)).id
        soon = build.job(session, tenant, deadline_at=now + timedelta(hours=1)).id
        urgent = build.job(session, tenant, priority=9).id
        idle = build.job(session, tenant, priority=0).id
        assert ids(drain(session)) == [urgent, soon, late, old, young, idle]


class TestTenants:
    def test_a_large_backlog_does_not_delay_another_tenant(self, session: Session) -> None:
        crowd, single = build.tenant(session), build.tenant(session)
        for _ in range(30):
            build.job(session, crowd, priority=9)
        lone = build.job(session, single, priority=0).id
        assert ids(drain(session)).index(lone) <= 1

    def test_share_by_weight(self, session: Session) -> None:
        light, heavy = build.tenant(session, weight=1), build.tenant(session, weight=3)
        for tenant in (light, heavy):
            for _ in range(24):
                build.job(session, tenant)
        served = Counter(claim.tenant_id for claim in drain(session)[:16])
        assert served == {heavy: 12, light: 4}

    def test_share_device_time_not_counts(self, session: Session) -> None:
        long, short = build.tenant(session), build.tenant(session)
        for _ in range(4):
            build.job(session, long, planned_gpu_s=4.0)
        for _ in range(16):
            build.job(session, short, planned_gpu_s=1.0)
        served = Counter(claim.tenant_id for claim in drain(session)[:10])
        assert served == {short: 8, long: 2}

    def test_a_tenant_that_returns_has_saved_up_nothing(self, session: Session) -> None:
        idle, busy = build.tenant(session), build.tenant(session)
        build.job(session, idle)
        for _ in range(40):
            build.job(session, busy)
        for _ in range(31):
            build.claim(session)
        for _ in range(10):
            build.job(session, idle)
        served = Counter(claim.tenant_id for claim in drain(session)[:10])
        assert served[busy] >= 4

    def test_what_a_job_really_took_is_charged_when_it_ends(self, session: Session) -> None:
        greedy, modest = build.tenant(session), build.tenant(session)
        for tenant in (greedy, modest):
            for _ in range(6):
                build.job(session, tenant)
        for claim in build.claim(session, limit=2):
            spent = Usage(gpu_seconds=5.0 if claim.tenant_id == greedy else 1.0)
            lifecycle.end(session, [build.ending(claim, Outcome.SUCCEEDED, usage=spent)])
        served = [claim.tenant_id for claim in drain(session)[:4]]
        assert served == [modest] * 4

    @pytest.mark.parametrize("limit", [1, 7])
    def test_the_order_is_the_same_however_many_are_claimed_at_once(self, session: Session, limit: int) -> None:
        tenants = [build.tenant(session) for _ in range(12)]
        for tenant in tenants:
            build.job(session, tenant)
            build.job(session, tenant)
        order = [claim.tenant_id for claim in drain(session, limit=limit)]
        assert set(order[:12]) == set(tenants)
        assert order[:12] == order[12:]


class TestPosition:
    @pytest.mark.parametrize("seed", range(6))
    def test_is_the_place_in_which_the_claim_comes(self, session: Session, seed: int) -> None:
        dice = random.Random(seed)
        tenants = [build.tenant(session, weight=dice.choice([1, 2, 4])) for _ in range(5)]
        for _ in range(dice.randrange(12)):  # a history, so that the tenants' shares differ
            build.job(session, dice.choice(tenants), tier=dice.randrange(3))
        drain(session, limit=3)
        jobs = [
            build.job(
                session,
                dice.choice(tenants),
                tier=dice.randrange(3),
                priority=dice.randrange(10),
                planned_gpu_s=dice.choice([0.5, 1.0, 4.0]),
                deadline_at=utc_now() + timedelta(hours=dice.randrange(1, 3)) if dice.random() < 0.3 else None,
            ).id
            for _ in range(40)
        ]
        told = sorted(zip(positions(session, jobs), jobs, strict=True))
        assert [place for place, _ in told] == list(range(1, 41))
        assert ids(drain(session, limit=dice.choice([1, 4, 64]))) == [job for _, job in told]

    def test_is_none_for_what_is_not_due(self, session: Session) -> None:
        tenant = build.tenant(session)
        held = build.job(session, tenant, held=True).id
        later = build.job(session, tenant, run_after=utc_now() + timedelta(hours=1)).id
        due = build.job(session, tenant).id
        assert positions(session, [held, later, due]) == [None, None, 1]


def scans(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, index or table) of every scan in a plan."""
    if "Scan" in node["Node Type"]:
        yield node["Node Type"], node.get("Index Name") or node.get("Relation Name", "")
    for child in node.get("Plans", ()):
        yield from scans(child)


class TestCost:
    @pytest.fixture
    def backlog(self, session: Session) -> None:
        tenants = [build.tenant(session) for _ in range(20)]
        for tenant in tenants:
            build.job(session, tenant)
        session.execute(
            text("""
            INSERT INTO jobs (id, tenant_id, kind, spec, gpu_class, queue, tier, priority, planned_gpu_s)
            SELECT gen_random_uuid(), (CAST(:tenants AS uuid[]))[1 + n % 20], 'probe', '{}', 'cpu', :queue, 1, n % 10, 1
            FROM generate_series(1, :backlog) n"""),
            {"tenants": tenants, "queue": build.QUEUE, "backlog": BACKLOG},
        )
        session.execute(text("ANALYZE jobs, fair_shares"))
        session.commit()

    @pytest.mark.parametrize("limit", [1, 64])
    def test_ten_thousand_waiting_jobs_do_not_slow_a_claim(self, session: Session, backlog: None, limit: int) -> None:
        best = min(self._claim_ms(session, limit) for _ in range(5))
        assert best < CLAIM_MS

    def test_a_claim_reads_indexes_alone(self, session: Session, backlog: None) -> None:
        read = list(scans(self._plan(session, 64)["Plan"]))
        assert ("Index Scan", "ix_jobs_claim") in read
        assert ("Seq Scan", "jobs") not in read

    @staticmethod
    def _plan(session: Session, limit: int) -> dict[str, Any]:
        values = {
            "queue": build.QUEUE, "worker": new_id(), "lease": new_id(), "limit": limit, "ttl": 60, "devices": 1,
        }  # fmt: skip
        explained = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {queue_repository._CLAIM.text}")
        found: list[dict[str, Any]] = session.execute(explained, values).scalar_one()
        return found[0]

    def _claim_ms(self, session: Session, limit: int) -> float:
        plan = self._plan(session, limit)
        session.rollback()
        return float(plan["Execution Time"] + plan["Planning Time"])
