"""A database with a tenant and workers, and a stand-in for the broker at the relay's seam."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy import text

from services.workers import service as workers
from services.workers.types import Slots
from shared.broker import BrokerUnavailable
from shared.contracts.jobs import Pool
from shared.db.session import Database
from shared.settings import Settings
from tests.services.jobs import build
from workers.schedule import Relay

QUEUE = build.QUEUE


@dataclass
class World:
    """Remembers the bells that a relay rings. `away`: the broker is not there."""

    database: Database
    settings: Settings
    tenant: UUID
    rung: list[tuple[str, int, float]] = field(default_factory=list)
    away: bool = False

    def ring(self, queue: str, count: int) -> None:
        if self.away:
            raise BrokerUnavailable
        self.rung.append((queue, count, monotonic()))

    def bells(self, queue: str = QUEUE) -> int:
        return sum(count for name, count, _ in self.rung if name == queue)

    def execute(self, statement: str) -> None:
        with self.database.transaction() as session:
            session.execute(text(statement))

    def worker(self, *, free: int = 4) -> UUID:
        boot = workers.describe("cpu", pools=[Pool.SERVE], devices=[0], slots={Pool.SERVE: Slots(free, 4)})
        with self.database.transaction() as session:
            workers.register(session, boot)
        return boot.id

    def submit(self, **fields: Any) -> UUID:
        with self.database.transaction() as session:
            return build.job(session, self.tenant, **fields).id

    def claim(self, *, limit: int = 1) -> list[UUID]:
        with self.database.transaction() as session:
            return [each.job_id for each in build.claim(session, limit=limit)]

    def lose(self) -> UUID:
        job = self.submit()
        self.claim()
        self.execute("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 hour'")
        return job

    def state(self, job: UUID) -> str:
        with self.database.transaction() as session:
            return build.state(session, job)

    def quiet(self) -> bool:
        """Whether every bell is rung."""
        with self.database.transaction() as session:
            return int(session.execute(text("SELECT count(*) FROM outbox")).scalar_one()) == 0

    @contextmanager
    def relay(self, **changes: float) -> Iterator[Relay]:
        relay = Relay(self.database, self.settings.model_copy(update=changes), ring=self.ring)
        thread = threading.Thread(target=relay.run)
        thread.start()
        try:
            yield relay
        finally:
            relay.stop()
            thread.join(timeout=10)
            assert not thread.is_alive()
            closing = threading.Thread(target=relay.close)
            closing.start()
            self.execute("SELECT pg_notify('bells', '')")  # its listener need not wait for its poll to end
            closing.join()


def make(database: Database, settings: Settings) -> World:
    with database.transaction() as session:
        return World(database, settings, build.tenant(session))
