"""Aliases: one name, one version at a time, and never a model's."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from services.catalog import aliases, repository, service
from services.catalog.register import Wish, register
from services.catalog.rules import ModelInUse, NameTaken
from services.catalog.tree import FolderTree
from shared.db.models import Model
from shared.db.session import Database
from shared.errors import InvalidField, NotFound, UnknownModel
from shared.storage import Store
from tests.services.imports import build as models
from tests.services.inference import build
from tests.services.jobs import build as jobs
from tests.support.stores import RunningStores


@pytest.fixture
def tenant(session: Session) -> UUID:
    return jobs.tenant(session)


def version(session: Session, tenant: UUID, number: int) -> Model:
    return build.model(session, tenant, version=number, digest=f"{number:064x}")


class TestPoint:
    def test_moves_in_one_step(self, session: Session, tenant: UUID) -> None:
        one, two = version(session, tenant, 1), version(session, tenant, 2)
        aliases.point(session, tenant, "prod", one)
        assert service.get(session, tenant, "prod").id == one.id
        aliases.point(session, tenant, "prod", two)
        assert service.get(session, tenant, "prod").id == two.id
        assert [(name, model.id) for name, model in aliases.page(session, tenant)] == [("prod", two.id)]

    def test_stays_when_a_newer_version_comes(self, session: Session, tenant: UUID) -> None:
        aliases.point(session, tenant, "prod", one := version(session, tenant, 1))
        version(session, tenant, 2)
        assert service.get(session, tenant, "prod").id == one.id
        assert service.get(session, tenant, "tiny").version == 2

    def test_a_models_name_is_taken(self, session: Session, tenant: UUID) -> None:
        with pytest.raises(NameTaken):
            aliases.point(session, tenant, "tiny", version(session, tenant, 1))

    @pytest.mark.parametrize(
        "name", ["", "a b", "x@1", "a/versions", "compare/a", "019b2f6e-1d00-7000-8000-0000000000b1"]
    )
    def test_names(self, session: Session, tenant: UUID, name: str) -> None:
        with pytest.raises(InvalidField):
            aliases.point(session, tenant, name, version(session, tenant, 1))

    def test_forgotten(self, session: Session, tenant: UUID) -> None:
        aliases.point(session, tenant, "prod", version(session, tenant, 1))
        aliases.unpoint(session, tenant, "prod")
        with pytest.raises(UnknownModel):
            service.get(session, tenant, "prod")
        with pytest.raises(NotFound):
            aliases.unpoint(session, tenant, "prod")

    def test_keeps_its_model_from_being_deleted(self, session: Session, tenant: UUID) -> None:
        aliases.point(session, tenant, "prod", version(session, tenant, 1))
        with pytest.raises(ModelInUse, match="by aliases"):
            service.delete(session, tenant, "tiny")


class TestRace:
    def test_a_name_is_given_once(self, database: Database, stores: RunningStores) -> None:
        """A model and an alias that want one name at the same moment: one of them gets it."""
        store = Store.of(stores.settings())
        store.probe()
        with database.transaction() as session:
            tenant = jobs.tenant(session)
            other = build.model(session, tenant, name="other")

        def model() -> str:
            tree = FolderTree(models.TINY, store, tenant)
            return register(database, store, tenant, tree, wish=Wish("name")).kind

        def alias() -> str:
            with database.transaction() as session:
                return aliases.point(session, tenant, "name", other).name

        with ThreadPoolExecutor(2) as threads:
            running = [threads.submit(each) for each in (model, alias)]
            refused = [each.exception() for each in running]
        assert sum(isinstance(error, NameTaken) for error in refused) == 1
        with database.transaction() as session:
            assert repository.is_model(session, tenant, "name") != repository.is_alias(session, tenant, "name")
