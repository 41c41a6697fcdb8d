"""Files in SQL."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import Select, func, or_, select, text, update
from sqlalchemy.orm import Session

from shared.db.models import File

_EXPIRE = text("""
UPDATE files SET deleted_at = clock_timestamp()
WHERE id IN (SELECT id FROM files WHERE deleted_at IS NULL AND expires_at < clock_timestamp() LIMIT :limit)
RETURNING tenant_id, sha256
""")


def add(session: Session, file: File, *, expires_in_s: int | None) -> File:
    """Write a file and read it back, birthday and expiry (by the database's clock) included."""
    if expires_in_s is not None:
        file.expires_at = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, expires_in_s)
    session.add(file)
    session.flush()
    session.refresh(file)
    return file


def get(session: Session, tenant_id: UUID, id: UUID) -> File | None:
    """One of a tenant's files that is neither deleted nor expired."""
    return session.scalar(_living(tenant_id).where(File.id == id))


def some(session: Session, tenant_id: UUID, ids: Collection[UUID]) -> dict[UUID, File]:
    """Those of a tenant's files that are neither deleted nor expired, in one statement."""
    return {file.id: file for file in session.scalars(_living(tenant_id).where(File.id.in_(ids)))}


def page(
    session: Session,
    tenant_id: UUID,
    *,
    purpose: str | None = None,
    after: UUID | None = None,
    limit: int,
    oldest_first: bool = False,
) -> Sequence[File]:
    """A tenant's files, newest first unless told otherwise."""
    query = _living(tenant_id).order_by(File.id if oldest_first else File.id.desc()).limit(limit)
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    if after is not None:
        query = query.where(File.id > after if oldest_first else File.id < after)
    return session.scalars(query).all()


def delete(session: Session, tenant_id: UUID, id: UUID) -> str | None:
    """Hide a file for ever; the digest of what it named, None when there is none."""
    return session.scalar(
        update(File)
        .where(File.tenant_id == tenant_id, File.id == id, File.deleted_at.is_(None))
        .values(deleted_at=func.clock_timestamp())
        .returning(File.sha256)
    )


def expire(session: Session, *, limit: int) -> list[tuple[UUID, str]]:
    """Hide files whose time is over; their tenants and digests."""
    return [(tenant_id, sha256) for tenant_id, sha256 in session.execute(_EXPIRE, {"limit": limit})]


def _living(tenant_id: UUID) -> Select[File]:
    return select(File).where(
        File.tenant_id == tenant_id,
        File.deleted_at.is_(None),
        or_(File.expires_at.is_(None), File.expires_at > func.clock_timestamp()),
    )
