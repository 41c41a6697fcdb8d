"""Who is connected, as PostgreSQL sees it."""

from sqlalchemy import text
from sqlalchemy.orm import Session

_CONNECTED = text("""
SELECT EXISTS (SELECT 1 FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = :name)
""")


def connected(session: Session, name: str) -> bool:
    """Whether a process of that name holds a connection; sees processes of the same database user alone."""
    return bool(session.execute(_CONNECTED, {"name": name}).scalar_one())


def ping(session: Session) -> None:
    """Return when the database answers."""
    session.execute(text("SELECT 1"))
