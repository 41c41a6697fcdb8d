"""Whether the parts of a yard that only the database knows of are there."""

from sqlalchemy.orm import Session

from services.health import repository
from services.workers import service as workers

RELAY = "modelyard-relay"  #: the name under which a relay connects


def ping(session: Session) -> None:
    """Return when the database answers."""
    repository.ping(session)


def has_worker(session: Session) -> bool:
    """Whether a live worker accepts work."""
    return bool(workers.live_queues(session))


def has_relay(session: Session) -> bool:
    """Whether a relay is connected."""
    return repository.connected(session, RELAY)
