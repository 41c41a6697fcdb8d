"""A gateway that takes models from a folder and an S3 prefix, and models to look at."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from services.catalog import service as catalog
from shared.db.models import Model
from shared.db.session import Database
from shared.storage import Store
from tests.gateway.conftest import Gateway, serving
from tests.services.imports import build
from tests.support.configured import configured
from tests.support.stores import RunningStores, cloned_database


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def gateway(stores: RunningStores, migrated: str, root: Path) -> Iterator[Gateway]:
    """As the usual one, with a models_root and one S3 prefix."""
    own = {"models_root": root, "models_s3": ["modelyard/imports/"]}
    with (
        cloned_database(stores, migrated) as url,
        configured(stores.settings(database_url=url), **own) as settings,
        serving(settings) as address,
    ):
        database = Database(url, name="test")
        Store.of(settings).probe()
        yield Gateway(address, settings, database)
        database.close()


@pytest.fixture
def tenant(gateway: Gateway) -> UUID:
    return gateway.tenant()


@pytest.fixture
def client(gateway: Gateway, tenant: UUID) -> Iterator[httpx.Client]:
    with gateway.caller(tenant=tenant) as opened:
        yield opened


@pytest.fixture
def tiny(gateway: Gateway, tenant: UUID, tmp_path: Path) -> Callable[..., Model]:
    """Register yard-tiny, with a README of its own for each version."""

    def register(name: str = "tiny", *, readme: str = "") -> Model:
        folder = build.tiny(tmp_path / f"{name.replace('/', '-')}{readme}")
        (folder / "README.md").write_text(readme)
        store = Store.of(gateway.settings)
        return catalog.register_folder(gateway.database, store, tenant, name=name, folder=folder)

    return register
