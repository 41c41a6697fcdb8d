from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from services.jobs import repository as jobs
from services.jobs.types import NewJob
from services.webhooks import service
from shared.contracts.jobs import WebhookTarget
from shared.db.models import Job, Tenant
from shared.db.session import Database
from shared.ids import new_id
from shared.settings import Settings
from tests.support.configured import configured


@pytest.fixture
def here(settings: Settings) -> Iterator[Settings]:
    with configured(settings, webhook_timeout_s=0.5, webhook_retry_scale=0.001) as read:
        yield read


@pytest.fixture
def tenant(database: Database) -> UUID:
    with database.transaction() as session:
        row = Tenant(id=new_id(), name="webhooks")
        session.add(row)
    return row.id


@pytest.fixture
def job(database: Database, tenant: UUID) -> Job:
    new = NewJob(
        id=new_id(), tenant_id=tenant, kind="probe", spec={}, gpu_class="cpu", queue="cpu.serve", tier=1, priority=5,
        devices=1, plan={}, planned_gpu_s=1.0, max_failures=3, max_lost=3,
    )  # fmt: skip
    with database.transaction() as session:
        return jobs.insert(session, new)


@pytest.fixture
def tell(here: Settings, database: Database, job: Job) -> Callable[..., str]:
    """Queue an event of the job for a URL; returns the secret to verify it with."""
    hook: dict[str, Any] = {}

    def told(url: str, *, seq: int = 1, type_: str = "job.succeeded") -> str:
        if not hook:
            made = service.target(job.tenant_id, WebhookTarget.model_validate({"url": url}))
            hook.update(secret=made.generated_secret, sealed=made.encrypted_secret)
        with database.transaction() as session:
            service.enqueue(
                session,
                tenant_id=job.tenant_id,
                job_id=job.id,
                seq=seq,
                type_=type_,
                url=url,
                secret=hook["sealed"],
                data={"id": str(job.id), "state": "succeeded"},
            )
        return str(hook["secret"])

    return told
