"""A job's webhook: what is kept of the caller's wish, and the events that are queued for it.

Events are queued in the transaction of the change that they tell of, with their body frozen; the courier
sends them (`services.webhooks.delivery`). The body is OpenAI's event object; its `data` is thin: who wants
more asks for the job.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from sqlalchemy.orm import Session

from services.webhooks import repository, signing
from services.webhooks.repository import NewDelivery
from shared.clock import utc_now
from shared.contracts.jobs import TERMINAL_EVENTS, WebhookTarget
from shared.crypto import keyring
from shared.db.models import WebhookAttempt, WebhookDelivery
from shared.errors import InvalidField
from shared.ids import new_id, prefixed
from shared.settings import settings

PREFIX = "evt_"
SECRET_NAME = "webhook"  # noqa: S105 - the name under which a secret is sealed, not a secret
URL_CHARACTERS = 2048
DEFAULT_EVENTS = TERMINAL_EVENTS


@dataclass(frozen=True)
class Hook:
    """A webhook as a job's row keeps it, and the secret to show once if we made it."""

    stored: dict[str, Any]
    encrypted_secret: bytes = field(repr=False)
    generated_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class DeliveryLog:
    """One event's delivery and every try of it."""

    delivery: WebhookDelivery
    attempts: Sequence[WebhookAttempt]


def target(tenant_id: UUID, wish: WebhookTarget) -> Hook:
    """Check a webhook and seal its secret, making one when the caller gave none.

    Raises:
        InvalidField: the URL may not be sent to, or the secret has not 24–64 bytes (`webhook.url`,
        `webhook.secret`).
    """
    url = str(wish.url)
    _check_url(url)
    generated = signing.new_secret() if wish.secret is None else None
    secret = wish.secret or generated or ""
    try:
        key = signing.key_of(secret)
    except ValueError as error:
        raise InvalidField(f"The secret is {error}.", param="webhook.secret") from error
    events = None if wish.events is None else [str(event) for event in wish.events]
    sealed = keyring().seal(key, tenant_id=tenant_id, name=SECRET_NAME)
    return Hook({"url": url, "events": events}, sealed, generated)


def enqueue(
    session: Session,
    *,
    tenant_id: UUID,
    job_id: UUID,
    seq: int,
    type_: str,
    url: str,
    secret: bytes,
    data: Mapping[str, Any],
) -> None:
    """Queue an event of a job for its receiver, in the job's own transaction. A second time changes nothing.

    `secret` is sealed as `target` left it; `data` gets the event's `seq`, so that a receiver can drop what is
    stale.
    """
    delivery_id = new_id()
    repository.insert(
        session,
        NewDelivery(
            id=delivery_id,
            tenant_id=tenant_id,
            job_id=job_id,
            seq=seq,
            type=type_,
            url=url,
            secret=secret,
            body=frame(public_id(delivery_id), type_, {**data, "seq": seq}),
        ),
    )


def frame(event_id: str, type_: str, data: Mapping[str, Any]) -> bytes:
    """The body of an event: what OpenAI's SDK unwraps and Standard Webhooks recommends."""
    now = utc_now()
    return orjson.dumps(
        {
            "id": event_id,
            "object": "event",
            "created_at": int(now.timestamp()),
            "type": str(type_),
            "timestamp": now,
            "data": dict(data),
        }
    )


def public_id(delivery_id: UUID) -> str:
    """`evt_` and 32 hex digits: the event's id in its body and in `webhook-id`, the same for every attempt."""
    return prefixed(PREFIX, delivery_id)


def of_job(session: Session, tenant_id: UUID, job_id: UUID) -> list[DeliveryLog]:
    """What became of a job's events, in their order; empty for a job of another tenant."""
    return [DeliveryLog(*found) for found in repository.of_job(session, tenant_id, job_id)]


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "http" and not settings().webhook_allow_http:
        raise InvalidField("The receiver must speak https.", param="webhook.url")
    if parts.username is not None or parts.password is not None:
        raise InvalidField("The URL must not hold a user or password.", param="webhook.url")
    if parts.fragment or len(url) > URL_CHARACTERS:
        raise InvalidField(f"The URL has no fragment and at most {URL_CHARACTERS} characters.", param="webhook.url")
