"""Placement: who is offered to callers, and who starts an engine for those that have none."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.placement import service as placement
from services.placement.types import Demand
from services.workers import service as workers
from services.workers.types import Slots
from shared.contracts.jobs import JobError, Pool
from shared.contracts.serving import Mode
from shared.db.models import Engine, Model
from shared.db.session import Database
from shared.ids import new_id
from tests.services.jobs import build

QUEUE = "cpu.serve"
DIGEST, ADAPTER = "ab" * 32, "cd" * 32
NO_ROOM = JobError(code="engine_load_failed", title="The model did not load", detail="out of memory")


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


@pytest.fixture
def model(session: Session, tenant: UUID) -> UUID:
    return make_model(session, tenant)


def make_model(session: Session, tenant: UUID, *, digest: str = DIGEST, base: UUID | None = None) -> UUID:
    row = Model(
        id=new_id(),
        tenant_id=tenant,
        name=f"model-{digest[:2]}",
        kind="adapter" if base else "base",
        base_id=base,
        digest=digest,
        manifest=[],
        config={},
        bytes=1,
        parameters=1,
        dtype="fp32",
        context_length=128,
    )
    session.add(row)
    session.flush()
    return row.id


def make_worker(session: Session) -> UUID:
    boot = workers.describe("cpu", pools=[Pool.SERVE], devices=[0], slots={Pool.SERVE: Slots(1, 1)})
    workers.register(session, boot)
    return boot.id


def make_engine(session: Session, worker: UUID, **changes: Any) -> UUID:
    fields: dict[str, Any] = {
        "id": new_id(),
        "worker_id": worker,
        "model_digest": DIGEST,
        "kind": "transformers",
        "address": "unix:/run/e.sock",
        "devices": [0],
        "state": "ready",
        "max_in_flight": 64,
        "pid": 1,
    }
    row = Engine(**(fields | changes))
    session.add(row)
    session.flush()
    return row.id


def want(session: Session, tenant: UUID, model: UUID, *, mode: Mode = Mode.GENERATE) -> JobError | None:
    return placement.want(session, tenant_id=tenant, model_id=model, mode=mode, queue=QUEUE)


def claim(session: Session, worker: UUID) -> list[Demand]:
    return placement.claim(session, worker, queue=QUEUE, limit=8)


def age(session: Session, column: str, seconds: float) -> None:
    session.execute(
        text(f"UPDATE demands SET {column} = clock_timestamp() - make_interval(secs => :s)"), {"s": seconds}
    )


def silence(session: Session, worker: UUID) -> None:
    session.execute(
        text("UPDATE workers SET last_seen_at = clock_timestamp() - interval '1 hour' WHERE id = :id"), {"id": worker}
    )


class TestReplicas:
    def test_a_ready_engine_of_a_live_worker_is_offered_with_all_that_a_call_needs(self, session: Session) -> None:
        worker = make_worker(session)
        made = make_engine(
            session, worker, adapters=[ADAPTER], token="secret", stats={"running": 3, "waiting": 2}, devices=[0, 1]
        )
        (found,) = placement.replicas(session, digest=DIGEST, mode=Mode.GENERATE)
        assert (found.id, found.worker_id, found.gpu_class, found.address) == (made, worker, "cpu", "unix:/run/e.sock")
        assert (found.adapters, found.token, found.held, found.devices) == (frozenset({ADAPTER}), "secret", 5, 2)
        assert "secret" not in repr(found)

    @pytest.mark.parametrize("state", ["starting", "draining", "failed"])
    def test_an_engine_that_admits_nothing_is_not_offered(self, session: Session, state: str) -> None:
        make_engine(session, make_worker(session), state=state)
        assert placement.replicas(session) == []

    def test_engines_of_a_silent_worker_another_model_or_another_mode_are_not_offered(self, session: Session) -> None:
        worker = make_worker(session)
        make_engine(session, worker)
        assert placement.replicas(session, digest="ef" * 32) == []
        assert placement.replicas(session, digest=DIGEST, mode=Mode.EMBED) == []
        silence(session, worker)
        assert placement.replicas(session, digest=DIGEST) == []


class TestClaim:
    def test_what_is_wanted_is_claimed_once(self, session: Session, tenant: UUID, model: UUID) -> None:
        first, second = make_worker(session), make_worker(session)
        assert want(session, tenant, model) is None
        assert claim(session, first) == [Demand(tenant, model, Mode.GENERATE, QUEUE, 1)]
        assert claim(session, second) == []
        assert want(session, tenant, model) is None
        assert claim(session, second) == []

    def test_each_mode_is_a_demand_of_its_own(self, session: Session, tenant: UUID, model: UUID) -> None:
        for mode in Mode:
            want(session, tenant, model, mode=mode)
        assert {demand.mode for demand in claim(session, make_worker(session))} == set(Mode)

    def test_another_queues_worker_gets_nothing(self, session: Session, tenant: UUID, model: UUID) -> None:
        want(session, tenant, model)
        assert placement.claim(session, make_worker(session), queue="h200.serve", limit=8) == []

    def test_a_demand_that_nobody_repeats_is_nobodys(self, session: Session, tenant: UUID, model: UUID) -> None:
        want(session, tenant, model)
        age(session, "wanted_at", placement.FRESH_S + 1)
        assert claim(session, make_worker(session)) == []

    def test_a_dead_workers_claim_goes_to_the_next(self, session: Session, tenant: UUID, model: UUID) -> None:
        first, second = make_worker(session), make_worker(session)
        want(session, tenant, model)
        claim(session, first)
        silence(session, first)
        assert len(claim(session, second)) == 1

    @pytest.mark.parametrize("state", ["starting", "ready"])
    def test_a_model_that_has_an_engine_is_not_claimed(
        self, session: Session, tenant: UUID, model: UUID, state: str
    ) -> None:
        worker = make_worker(session)
        make_engine(session, worker, state=state)
        want(session, tenant, model)
        assert claim(session, worker) == []

    def test_a_dead_workers_engine_does_not_count(self, session: Session, tenant: UUID, model: UUID) -> None:
        gone = make_worker(session)
        make_engine(session, gone)
        silence(session, gone)
        want(session, tenant, model)
        assert len(claim(session, make_worker(session))) == 1


class TestAdapters:
    def test_goes_to_the_worker_that_has_the_base(self, session: Session, tenant: UUID, model: UUID) -> None:
        adapter = make_model(session, tenant, digest=ADAPTER, base=model)
        with_base, without = make_worker(session), make_worker(session)
        make_engine(session, with_base)
        want(session, tenant, adapter)
        assert claim(session, without) == []
        assert [demand.model_id for demand in claim(session, with_base)] == [adapter]

    def test_goes_to_anybody_when_nobody_has_the_base(self, session: Session, tenant: UUID, model: UUID) -> None:
        want(session, tenant, make_model(session, tenant, digest=ADAPTER, base=model))
        assert len(claim(session, make_worker(session))) == 1

    def test_is_not_claimed_once_it_is_loaded(self, session: Session, tenant: UUID, model: UUID) -> None:
        adapter = make_model(session, tenant, digest=ADAPTER, base=model)
        worker = make_worker(session)
        make_engine(session, worker, adapters=[ADAPTER])
        want(session, tenant, adapter)
        assert claim(session, worker) == []


class TestRefuse:
    def test_callers_are_told_for_a_while_and_then_it_is_tried_again(
        self, session: Session, tenant: UUID, model: UUID
    ) -> None:
        worker = make_worker(session)
        want(session, tenant, model)
        (demand,) = claim(session, worker)
        placement.refuse(session, demand, error=NO_ROOM)
        assert want(session, tenant, model) == NO_ROOM
        assert claim(session, worker) == []
        age(session, "failed_at", placement.TOLD_S + 1)
        assert want(session, tenant, model) is None
        assert claim(session, worker) == [demand]


class TestSettle:
    def test_forgets_the_demand(self, session: Session, tenant: UUID, model: UUID) -> None:
        worker = make_worker(session)
        want(session, tenant, model)
        (demand,) = claim(session, worker)
        placement.settle(session, demand)
        assert session.execute(text("SELECT count(*) FROM demands")).scalar_one() == 0


class TestNotify:
    @pytest.fixture
    def heard(self, database: Database) -> Iterator[psycopg.Connection[Any]]:
        url = database.url.replace("postgresql+psycopg://", "postgresql://", 1)
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            for channel in ("demands", "engines"):
                connection.execute(f"LISTEN {channel}")
            yield connection

    def test_workers_hear_the_queue_and_gateways_the_bases_digest(
        self, database: Database, heard: psycopg.Connection[Any]
    ) -> None:
        with database.transaction() as session:
            tenant = build.tenant(session)
            adapter = make_model(session, tenant, digest=ADAPTER, base=make_model(session, tenant))
            want(session, tenant, adapter)
        with database.transaction() as session:
            (demand,) = claim(session, make_worker(session))
            placement.refuse(session, demand, error=NO_ROOM)
        told = [(each.channel, each.payload) for each in heard.notifies(timeout=10, stop_after=2)]
        assert told == [("demands", QUEUE), ("engines", DIGEST)]
