"""Keyed answers in SQL."""

from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

Kept = Row[tuple[bytes, int | None, bytes | None, bool]]

# Two requests with one key meet at the primary key: the second waits until the first has committed or rolled back.
_TAKE = text("""
INSERT INTO idempotency_keys AS k (tenant_id, route, key, request_sha256)
VALUES (:tenant_id, :route, :key, :request_sha256)
ON CONFLICT (tenant_id, route, key) DO UPDATE
  SET request_sha256 = excluded.request_sha256, created_at = clock_timestamp(), status = NULL, body = NULL
  WHERE k.created_at < clock_timestamp() - make_interval(secs => :life_s)
RETURNING true
""")
_READ = text("""
SELECT request_sha256, status, body, created_at >= clock_timestamp() - make_interval(secs => :life_s) AS live
FROM idempotency_keys
WHERE tenant_id = :tenant_id AND route = :route AND key = :key
""")
_ANSWER = text("""
UPDATE idempotency_keys SET status = :status, body = :body
WHERE tenant_id = :tenant_id AND route = :route AND key = :key
""")


def take(
    session: Session, tenant_id: UUID, *, route: str, key: str, request_sha256: bytes, life_s: float
) -> Kept | None:
    """None when the key is now ours; else the row of the request that had it first, once that has committed."""
    named = {"tenant_id": tenant_id, "route": route, "key": key, "life_s": life_s}
    if session.execute(_TAKE, {**named, "request_sha256": request_sha256}).first():
        return None
    return session.execute(_READ, named).one()


def find(session: Session, tenant_id: UUID, *, route: str, key: str, life_s: float) -> Kept | None:
    """The row of a request that had the key and has committed; None when there is none that still counts."""
    row = session.execute(_READ, {"tenant_id": tenant_id, "route": route, "key": key, "life_s": life_s}).one_or_none()
    return row if row is not None and row.live else None


def answer(session: Session, tenant_id: UUID, *, route: str, key: str, status: int, body: bytes) -> None:
    """Keep what was answered."""
    values = {"tenant_id": tenant_id, "route": route, "key": key, "status": status, "body": body}
    session.execute(_ANSWER, values)
