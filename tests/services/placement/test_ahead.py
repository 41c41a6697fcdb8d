"""What is made ready before anybody asks: adapters that engines should hold, engines that will be wanted."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.catalog import aliases
from services.catalog import repository as catalog
from services.placement import ahead
from services.placement import service as placement
from services.placement.types import Demand
from shared.contracts.serving import Mode
from shared.db.models import Model
from shared.db.session import Database
from shared.ids import new_id
from tests.services.inference.build import model as make_base
from tests.services.jobs import build
from tests.services.placement.test_placement import QUEUE, claim, make_engine, make_worker, want

BASE = "ab" * 32


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


@pytest.fixture
def base(session: Session, tenant: UUID) -> Model:
    return make_base(session, tenant, digest=BASE)


def adapter(session: Session, base: Model, digest: str, **fields: Any) -> Model:
    """A version of `fields["name"]`, or of a name made of its digest."""
    row = Model(
        id=new_id(),
        tenant_id=base.tenant_id,
        kind="adapter",
        base_id=base.id,
        digest=digest * 32,
        manifest=[],
        config={"r": fields.pop("rank", 8)},
        bytes=1,
        parameters=1,
        dtype="fp32",
        context_length=128,
        **{"name": f"adapter-{digest}", **fields},
    )
    return catalog.add(session, row)


def wished(session: Session, *, limit: int = 8) -> list[str]:
    """First letters of the digests that engines of the base should hold, in order."""
    found = ahead.wanted(session, {BASE: ()}, limit=limit)
    return [wish.digest[0] for wish in found[BASE].wishes]


def checkpoint(session: Session, tenant: UUID, model: Model) -> None:
    job = build.job(session, tenant)
    build.claim(session)
    session.execute(
        text(
            "INSERT INTO checkpoints (id, job_id, tenant_id, attempt, step, fingerprint, manifest, model_id) "
            "VALUES (:id, :job, :tenant, 1, 1, '', '[]', :model)"
        ),
        {"id": new_id(), "job": job.id, "tenant": tenant, "model": model.id},
    )


class TestWanted:
    def test_the_newest_of_each_name_come_first_as_many_as_an_engine_holds(self, session: Session, base: Model) -> None:
        for digest in "1234":
            adapter(session, base, digest)
        adapter(session, base, "5", name="adapter-2")
        assert wished(session) == ["5", "4", "3", "1"]
        assert wished(session, limit=2) == ["5", "4"]

    def test_older_versions_that_a_checkpoint_or_an_alias_names_stay(
        self, session: Session, tenant: UUID, base: Model
    ) -> None:
        first, second, _ = (adapter(session, base, digest, name="bot") for digest in "123")
        checkpoint(session, tenant, first)
        aliases.point(session, tenant, "prod", second)
        assert wished(session) == ["3", "2", "1"]

    def test_deleted_ones_and_those_that_are_not_to_be_served_are_not_wished_for(
        self, session: Session, base: Model
    ) -> None:
        adapter(session, base, "1", source={"serve": False})
        adapter(session, base, "2", source={"serve": True})
        gone = adapter(session, base, "3")
        catalog.mark_deleted(session, [gone.id])
        assert wished(session) == ["2"]

    def test_what_two_tenants_have_is_loaded_once_and_gone_when_neither_has_it(
        self, session: Session, base: Model
    ) -> None:
        other = make_base(session, build.tenant(session), digest=BASE)
        rows = [adapter(session, each, "1") for each in (base, other)]
        assert wished(session) == ["1"]
        for row in rows:
            assert not ahead.wanted(session, {BASE: ["1" * 32]}, limit=8)[BASE].gone
            catalog.mark_deleted(session, [row.id])
        assert ahead.wanted(session, {BASE: ["1" * 32]}, limit=8)[BASE].gone == {"1" * 32}

    def test_another_bases_adapters_are_not_its_own(self, session: Session, tenant: UUID, base: Model) -> None:
        other = make_base(session, tenant, name="other", digest="ef" * 32)
        adapter(session, other, "1", rank=128)
        assert wished(session) == []
        assert (ahead.largest_rank(session, BASE), ahead.largest_rank(session, "ef" * 32)) == (0, 128)


class TestForesee:
    def test_a_worker_of_the_queue_gets_it_and_knows_that_nobody_waits(
        self, session: Session, tenant: UUID, base: Model
    ) -> None:
        worker = make_worker(session)
        assert ahead.foresee(session, tenant_id=tenant, model_id=base.id)
        assert claim(session, worker) == [Demand(tenant, base.id, Mode.GENERATE, QUEUE, 1, ahead=True)]

    @pytest.mark.parametrize("state", ["starting", "ready"])
    def test_an_engine_that_is_there_is_enough(self, session: Session, tenant: UUID, base: Model, state: str) -> None:
        make_engine(session, make_worker(session), state=state)
        made = adapter(session, base, "1")
        assert not ahead.foresee(session, tenant_id=tenant, model_id=base.id)
        assert not ahead.foresee(session, tenant_id=tenant, model_id=made.id)
        assert session.execute(text("SELECT count(*) FROM demands")).scalar_one() == 0

    def test_callers_that_wait_for_the_same_keep_their_demand(
        self, session: Session, tenant: UUID, base: Model
    ) -> None:
        worker = make_worker(session)
        want(session, tenant, base.id)
        ahead.foresee(session, tenant_id=tenant, model_id=base.id)
        (demand,) = claim(session, worker)
        assert not demand.ahead

    def test_one_that_callers_share_by_now_is_free_again_when_it_is_dropped(
        self, session: Session, tenant: UUID, base: Model
    ) -> None:
        first, second = make_worker(session), make_worker(session)
        ahead.foresee(session, tenant_id=tenant, model_id=base.id)
        (demand,) = claim(session, first)
        want(session, tenant, base.id)
        placement.drop(session, demand)
        assert [each.ahead for each in claim(session, second)] == [False]

    def test_one_that_nobody_waits_for_is_forgotten(self, session: Session, tenant: UUID, base: Model) -> None:
        worker = make_worker(session)
        ahead.foresee(session, tenant_id=tenant, model_id=base.id)
        (demand,) = claim(session, worker)
        placement.drop(session, demand)
        assert session.execute(text("SELECT count(*) FROM demands")).scalar_one() == 0

    def test_a_model_that_no_class_holds_is_nobodys(self, session: Session, tenant: UUID) -> None:
        huge = make_base(session, tenant, name="huge", digest="ee" * 32, bytes=10**15, parameters=5 * 10**14)
        assert not ahead.foresee(session, tenant_id=tenant, model_id=huge.id)


class TestReplicas:
    def test_say_why_an_adapter_is_not_loaded(self, session: Session, base: Model) -> None:
        made = adapter(session, base, "1")
        why = {"code": "adapter_load_failed", "title": "no"}
        make_engine(session, make_worker(session), stats={"adapter_errors": {made.digest: why}})
        found = catalog.replicas(session, [(BASE, made.digest), (BASE, None)])
        assert (found[BASE, made.digest].count, found[BASE, made.digest].error) == (0, why)
        assert (found[BASE, None].count, found[BASE, None].error) == (1, None)


class TestNotify:
    @pytest.fixture
    def heard(self, database: Database) -> Iterator[psycopg.Connection[Any]]:
        url = database.url.replace("postgresql+psycopg://", "postgresql://", 1)
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            connection.execute("LISTEN adapters")
            yield connection

    def test_workers_hear_of_adapters_that_come_and_go(
        self, database: Database, heard: psycopg.Connection[Any]
    ) -> None:
        with database.transaction() as session:
            base = make_base(session, build.tenant(session), digest=BASE)
            made = adapter(session, base, "1")
        with database.transaction() as session:
            catalog.mark_deleted(session, [made.id])
        assert [each.payload for each in heard.notifies(timeout=10, stop_after=2)] == [BASE, BASE]
