"""Deliveries in SQL. A lease by the database's clock keeps two couriers from sending the same one at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from shared.db.models import WebhookAttempt, WebhookDelivery

# A receiver that hangs must not use up the couriers' hands: at most `per_url` deliveries to one URL are out at a time.
# Ranking reads every due row; ten thousand of them cost about 20 ms.
_CLAIM = text("""
WITH out AS (
  SELECT url, count(*) AS n FROM webhook_deliveries
  WHERE state = 'pending' AND lease_expires_at > clock_timestamp() GROUP BY url),
due AS (
  SELECT id, url, next_at, row_number() OVER (PARTITION BY url ORDER BY next_at, id) AS place FROM
  webhook_deliveries WHERE state = 'pending' AND next_at <= clock_timestamp()
    AND (lease_expires_at IS NULL OR lease_expires_at <= clock_timestamp())),
chosen AS (
  SELECT due.id FROM due LEFT JOIN out USING (url) WHERE place + COALESCE(n, 0) <= :per_url
  ORDER BY next_at, due.id LIMIT :limit),
held AS (
  SELECT id FROM webhook_deliveries
  WHERE id IN (SELECT id FROM chosen) AND state = 'pending'
    AND (lease_expires_at IS NULL OR lease_expires_at <= clock_timestamp())
  FOR UPDATE SKIP LOCKED)
UPDATE webhook_deliveries d SET lease_expires_at = clock_timestamp() + make_interval(secs => :lease_s)
FROM held WHERE d.id = held.id
RETURNING d.id, d.tenant_id, d.job_id, d.url, d.secret, d.body, d.tries
""")

_INSERT = text("""
WITH made AS (
  INSERT INTO webhook_deliveries (id, tenant_id, job_id, seq, type, url, secret, body) VALUES (:id,
  :tenant_id, :job_id, :seq, :type, :url, :secret, :body) ON CONFLICT (job_id, seq, url) DO NOTHING)
SELECT pg_notify('bells', 'control')
""")

_RECORD = text("""
WITH moved AS (
  UPDATE webhook_deliveries SET state = :state, tries = tries + 1, lease_expires_at = NULL,
    next_at = CASE WHEN :state = 'pending' THEN clock_timestamp() + make_interval(secs => :delay_s) END,
    delivered_at = CASE WHEN :state = 'delivered' THEN clock_timestamp() END
  WHERE id = :id AND state = 'pending' AND tries = :tries
  RETURNING id, tenant_id, tries)
INSERT INTO webhook_attempts (delivery_id, number, tenant_id, status, duration_ms, error, response)
SELECT id, tries, tenant_id, :status, :duration_ms, :error, :response FROM moved
RETURNING number
""")


@dataclass(frozen=True)
class NewDelivery:
    """An event for one receiver, its body frozen."""

    id: UUID
    tenant_id: UUID
    job_id: UUID
    seq: int
    type: str
    url: str
    secret: bytes
    body: bytes


@dataclass(frozen=True)
class Due:
    """A delivery that this process may send until its lease ends. `tries` came before."""

    id: UUID
    tenant_id: UUID
    job_id: UUID
    url: str
    secret: bytes
    body: bytes
    tries: int


@dataclass(frozen=True)
class Attempt:
    """What one try met, and what follows: `state` of the delivery, `delay_s` until the next try if there is one."""

    state: str
    delay_s: float
    duration_ms: int
    status: int | None = None
    error: str | None = None
    response: str | None = None


def insert(session: Session, new: NewDelivery) -> None:
    """Write a delivery once per event and URL, and wake the courier when this transaction commits."""
    session.execute(_INSERT, new.__dict__)


def claim(session: Session, *, limit: int, per_url: int, lease_s: float) -> list[Due]:
    """Up to `limit` due deliveries, at most `per_url` in flight to one URL, held for `lease_s`."""
    rows = session.execute(_CLAIM, {"limit": limit, "per_url": per_url, "lease_s": lease_s})
    return [Due(**row) for row in rows.mappings()]


def record(session: Session, due: Due, attempt: Attempt) -> bool:
    """Write what a try met; False when another courier has recorded the same try (its lease was the later one)."""
    values = {"id": due.id, "tries": due.tries, **attempt.__dict__}
    return session.execute(_RECORD, values).first() is not None


def of_job(session: Session, tenant_id: UUID, job_id: UUID) -> list[tuple[WebhookDelivery, Sequence[WebhookAttempt]]]:
    """A job's deliveries in the order of their events, each with its attempts."""
    deliveries = session.scalars(
        select(WebhookDelivery)
        .where(WebhookDelivery.tenant_id == tenant_id, WebhookDelivery.job_id == job_id)
        .order_by(WebhookDelivery.seq)
    ).all()
    attempts = session.scalars(
        select(WebhookAttempt)
        .where(WebhookAttempt.tenant_id == tenant_id, WebhookAttempt.delivery_id.in_([d.id for d in deliveries]))
        .order_by(WebhookAttempt.number)
    ).all()
    return [(each, [a for a in attempts if a.delivery_id == each.id]) for each in deliveries]
