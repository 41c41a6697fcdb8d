"""What tests of the courier's work on families share: a tenant with a model, and hands that do the work."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Self
from uuid import UUID

from sqlalchemy import text

from services.jobs import lifecycle, service
from services.jobs.types import Claim, Outcome
from shared.db.models import Job
from shared.db.session import Database
from shared.ids import new_id
from shared.storage import Store
from tests.services.inference import build
from tests.services.jobs import build as jobs
from workers.tasks.control import Context
from workers.tasks.repository import Task


@dataclass
class Hands:
    """A tenant with a model, and the courier's hands for one kind of job."""

    KIND: ClassVar[str]
    TASKS: ClassVar[ModuleType]  #: has `expand` and `merge`

    database: Database
    store: Store
    tenant: UUID

    @classmethod
    def of(cls, database: Database, store: Store, **model: Any) -> Self:
        with database.transaction() as session:
            tenant = jobs.tenant(session)
            build.model(session, tenant, **model)
        return cls(database, store, tenant)

    def work(self, kind: str, job_id: UUID) -> None:
        task = Task(new_id(), self.tenant, kind, job_id, self.KIND, 1)
        getattr(self.TASKS, kind)(Context(self.database, self.store), task)

    def tasks(self) -> list[str]:
        with self.database.transaction() as session:
            return list(session.execute(text("SELECT kind FROM control_tasks ORDER BY kind")).scalars())

    def job(self, job_id: UUID) -> Job:
        with self.database.transaction() as session:
            return service.get(session, self.tenant, job_id)

    def cancel(self, job_id: UUID) -> None:
        with self.database.transaction() as session:
            service.cancel(session, self.tenant, job_id)

    def claim(self, *, limit: int = 10_000) -> list[Claim]:
        with self.database.transaction() as session:
            return jobs.claim(session, limit=limit)

    def end(self, claimed: Claim, outcome: Outcome = Outcome.SUCCEEDED, **extra: Any) -> None:
        with self.database.transaction() as session:
            assert lifecycle.end(session, [jobs.ending(claimed, outcome, **extra)])
