"""Sending what is due: claim, close the transaction, send, record. At least once, with one id and the same bytes.

A delivery is tried ten times over three days, as Standard Webhooks suggests; any 2xx ends it, 410 ends it at
once. `Retry-After` can make the pause longer, never shorter. Whoever dies between the receiver's answer and
its record leaves a lease that runs out: the event is sent again.
"""

import random
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

from services.webhooks import repository, service, signing
from services.webhooks.repository import Attempt, Due
from shared import failpoints
from shared.clock import monotonic, utc_now
from shared.crypto import Unsealable, keyring
from shared.db.session import Database
from shared.http import Reply, Unanswered
from shared.settings import settings
from shared.telemetry import counter, histogram, logger

HOUR = 3600.0
#: pause before the n-th try
SCHEDULE_S = (0, 5, 300, 1800, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
LONGEST_S = 24 * HOUR
JITTER = 0.1  # of a pause, so that what failed together does not come back together
RESPONSE_BYTES = 4096  # kept of an answer, for its owner
IN_FLIGHT_PER_URL = 2
LEASE_TIMEOUTS = 3  # a lease outlasts the request that it covers
GONE = 410

ATTEMPTS = counter("webhook_attempts", "Tries to deliver an event, by what they met.", "outcome")
SECONDS = histogram("webhook_attempt_seconds", "How long a try took.")

log = logger(__name__)


class Sender(Protocol):
    """Whatever can POST: `shared.http.Outbound`, or a stand-in with a policy of its own."""

    def post(self, url: str, *, body: bytes, headers: dict[str, str]) -> Reply:
        """Send and return the answer; raises `Unanswered`."""


@dataclass(frozen=True)
class _Met:
    """What a try met: a status, or the reason why there is none."""

    status: int | None = None
    retry_after_s: float = 0.0
    response: str | None = None
    error: str | None = None


def claim(database: Database, *, limit: int) -> list[Due]:
    """Take up to `limit` due deliveries for as long as sending them may last."""
    lease_s = settings().webhook_timeout_s * LEASE_TIMEOUTS
    with database.transaction() as session:
        return repository.claim(session, limit=limit, per_url=IN_FLIGHT_PER_URL, lease_s=lease_s)


def deliver(database: Database, sender: Sender, due: Due) -> Attempt:
    """Send one claimed delivery and record what came of it.

    Raises:
        DatabaseUnavailable: it may have been sent, but could not be recorded; it will be sent again.
    """
    began = monotonic()
    met = _send(sender, due)
    seconds = monotonic() - began
    attempt = _judge(due, met, duration_ms=round(seconds * 1000))
    if attempt.state == "delivered":
        failpoints.hit("webhook.after_2xx")
    with database.transaction() as session:
        repository.record(session, due, attempt)
    ATTEMPTS.labels(attempt.state if met.status is None else str(met.status)).inc()
    SECONDS.observe(seconds)
    log.info(
        "webhook.tried",
        extra={
            "delivery": due.id, "job": due.job_id, "try": due.tries + 1, "status": met.status, "error": met.error,
            "state": attempt.state, "duration_ms": attempt.duration_ms,
        },
    )  # fmt: skip
    return attempt


def deliver_due(database: Database, sender: Sender, *, limit: int = 64) -> list[Attempt]:
    """Send what is due, one after the other."""
    return [deliver(database, sender, due) for due in claim(database, limit=limit)]


def _send(sender: Sender, due: Due) -> _Met:
    try:
        key = keyring().unseal(due.secret, tenant_id=due.tenant_id, name=service.SECRET_NAME)
    except Unsealable as error:
        return _Met(error=f"secret: {error}")
    headers = signing.headers(key, id=service.public_id(due.id), timestamp=int(utc_now().timestamp()), body=due.body)
    try:
        reply = sender.post(
            due.url,
            body=due.body,
            headers={"content-type": "application/json", "user-agent": "modelyard-webhooks/1", **headers},
        )
    except Unanswered as error:
        return _Met(error=str(error))
    return _Met(reply.status, _retry_after_s(reply), _text(reply.body))


def _judge(due: Due, met: _Met, *, duration_ms: int) -> Attempt:
    state, delay_s = "pending", 0.0
    if met.status is not None and 200 <= met.status < 300:
        state = "delivered"
    elif met.status == GONE or due.tries + 1 >= len(SCHEDULE_S):
        state = "dead"
    else:
        delay_s = max(_pause_s(due.tries + 1), met.retry_after_s)
    return Attempt(state, delay_s, duration_ms, met.status, met.error, met.response)


def _pause_s(tries: int) -> float:
    return SCHEDULE_S[tries] * settings().webhook_retry_scale * random.uniform(1, 1 + JITTER)


def _retry_after_s(reply: Reply) -> float:
    """`Retry-After` in seconds (RFC 9110 §10.2.3: a number, or a date); 0 when there is none that we understand."""
    value = reply.headers.get("retry-after", "").strip()
    if value.isdecimal() and value.isascii():
        return min(float(value[:9]), LONGEST_S)
    try:
        seconds = (parsedate_to_datetime(value) - utc_now()).total_seconds()
    except (ValueError, TypeError):
        return 0.0
    return min(max(0.0, seconds), LONGEST_S)


def _text(body: bytes) -> str:
    return body[:RESPONSE_BYTES].decode("utf-8", "replace").replace("\x00", "�")
