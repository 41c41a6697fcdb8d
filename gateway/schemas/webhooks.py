"""Deliveries of a job's events, as their owner sees them."""

from typing import Literal, Self
from uuid import UUID

from pydantic import Field

from gateway.schemas.common import Moment, Out
from services.webhooks.service import DeliveryLog, public_id
from shared.contracts.jobs import EventType
from shared.db.models import WebhookAttempt


class DeliveryAttemptOut(Out):
    """What one try met."""

    number: int
    at: Moment
    status: int | None = Field(description="HTTP status; null when none came")
    duration_ms: int
    error: str | None
    response: str | None = Field(description="the beginning of what the receiver answered")

    @classmethod
    def of(cls, row: WebhookAttempt) -> Self:
        """The try of a row."""
        return cls(
            number=row.number,
            at=row.at,
            status=row.status,
            duration_ms=row.duration_ms,
            error=row.error,
            response=row.response,
        )


class DeliveryOut(Out):
    """One event for one receiver."""

    id: str = Field(description="the event's `webhook-id`, the same on every try")
    object: Literal["webhook_delivery"] = "webhook_delivery"
    job_id: UUID
    seq: int = Field(description="number of the event in the job")
    type: EventType
    url: str
    state: str = Field(description="pending, delivered, or dead: given up")
    tries: int
    next_at: Moment | None
    created_at: Moment
    delivered_at: Moment | None
    attempts: list[DeliveryAttemptOut]

    @classmethod
    def of(cls, log: DeliveryLog) -> Self:
        """The delivery of a row, with its tries."""
        row = log.delivery
        return cls(
            id=public_id(row.id),
            job_id=row.job_id,
            seq=row.seq,
            type=EventType(row.type),
            url=row.url,
            state=row.state,
            tries=row.tries,
            next_at=row.next_at,
            created_at=row.created_at,
            delivered_at=row.delivered_at,
            attempts=[DeliveryAttemptOut.of(each) for each in log.attempts],
        )
