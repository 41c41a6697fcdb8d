"""Requests with an `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): done once, answered alike each time.

The key's row lives in the transaction of the work, so a failed request leaves none and may be tried again.
Answers are kept sealed: the one to a submit may show a webhook secret.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from services.idempotency import repository
from services.idempotency.repository import Kept
from shared.crypto import keyring
from shared.errors import Conflict, IdempotencyMismatch

LIFE_S = 24 * 3600.0


@dataclass(frozen=True)
class Answer:
    """What was answered to the first request with a key."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Key:
    """A caller's key for one route, and the digest of the request that came with it."""

    tenant_id: UUID
    route: str
    key: str
    request_sha256: bytes

    @property
    def _name(self) -> str:
        return f"idempotency {self.route} {self.key}"

    def replay(self, session: Session) -> Answer | None:
        """The answer to replay; None when this request is the first and has the work to do. Waits for one in flight.

        Raises:
            IdempotencyMismatch: the key came with another request before.
        """
        row = repository.take(
            session,
            self.tenant_id,
            route=self.route,
            key=self.key,
            request_sha256=self.request_sha256,
            life_s=LIFE_S,
        )
        return None if row is None else self._answer(row)

    def first(self, session: Session) -> Answer | None:
        """The answer to replay, looked up without taking the key: for work that must not wait in a transaction.

        None when this request seems to be the first: `replay` decides, in the transaction that does the work.

        Raises:
            IdempotencyMismatch: the key came with another request before.
        """
        row = repository.find(session, self.tenant_id, route=self.route, key=self.key, life_s=LIFE_S)
        return None if row is None else self._answer(row)

    def _answer(self, row: Kept) -> Answer:
        if row.request_sha256 != self.request_sha256:
            raise IdempotencyMismatch(param="Idempotency-Key")
        if row.status is None or row.body is None:
            raise Conflict("The first request with this Idempotency-Key left no answer.")
        return Answer(row.status, keyring().unseal(row.body, tenant_id=self.tenant_id, name=self._name))

    def keep(self, session: Session, answer: Answer) -> None:
        """Remember the answer, in the transaction that did the work."""
        sealed = keyring().seal(answer.body, tenant_id=self.tenant_id, name=self._name)
        repository.answer(session, self.tenant_id, route=self.route, key=self.key, status=answer.status, body=sealed)
