"""What work costs. Each attempt is counted once, in the transaction that ends it (`services.jobs.lifecycle.end`)."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from services.usage import repository
from shared.contracts.jobs import Usage
from shared.queues import gpu_class

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Total:
    """What a tenant's attempts consumed on one GPU class."""

    gpu_class: str
    jobs: int
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    gpu_seconds: float
    cost: float


def of_attempt(class_name: str, *, gpu_seconds: float, prompt_tokens: int = 0, completion_tokens: int = 0) -> Usage:
    """The usage of an attempt that held devices of a class for `gpu_seconds` (devices × seconds).

    Raises:
        UnknownClass: there is no such class.
    """
    price = gpu_class(class_name).price_per_gpu_hour
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        gpu_seconds=gpu_seconds,
        cost=gpu_seconds / SECONDS_PER_HOUR * price,
    )


def totals(session: Session, tenant_id: UUID, *, since: datetime, until: datetime) -> list[Total]:
    """What the tenant's attempts consumed from `since` until before `until`, by GPU class."""
    rows = repository.totals(session, tenant_id, since=since, until=until)
    return [Total(**row._mapping) for row in rows]  # noqa: SLF001 - a Row's documented view as a mapping
