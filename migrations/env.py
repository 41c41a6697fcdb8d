"""Alembic's entry: one online run on the URL that `shared.db.migrate` passes."""

from alembic import context
from sqlalchemy import create_engine, pool, text

from shared.db.models import Base

LOCK = 7_236_554_012  # any fixed number: one migration at a time


def run() -> None:
    """Run the migrations in one transaction, behind an advisory lock."""
    engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=False)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            context.run_migrations()


run()
