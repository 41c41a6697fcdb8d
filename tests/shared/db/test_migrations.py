"""The schema goes up, comes down, and does not drift from the models."""

from sqlalchemy import create_engine, inspect

from shared.db import migrate
from tests.support.stores import RunningStores, cloned_database


class TestMigrations:
    def test_up_down_up_leaves_the_schema_that_the_models_say(self, stores: RunningStores) -> None:
        with cloned_database(stores, "template0") as url:
            migrate.upgrade(url)
            migrate.check(url)
            migrate.downgrade(url)
            engine = create_engine(url)
            assert inspect(engine).get_table_names() == ["alembic_version"]
            engine.dispose()
            migrate.upgrade(url)
            migrate.upgrade(url)
            migrate.check(url)
