"""Tenants and API keys in SQL."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.db.models import ApiKey, Tenant
from shared.ids import new_id

_USED = text("""
UPDATE api_keys SET last_used_at = clock_timestamp()
WHERE id = :id AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')
""")


def find_live(session: Session, key_id: str) -> tuple[ApiKey, Tenant] | None:
    """A key that is neither revoked nor expired, and its tenant. The one lookup that no tenant narrows."""
    query = select(ApiKey, Tenant).join(Tenant, Tenant.id == ApiKey.tenant_id)
    live = (ApiKey.revoked_at.is_(None)) & (
        (ApiKey.expires_at.is_(None)) | (ApiKey.expires_at > func.clock_timestamp())
    )
    found = session.execute(query.where(ApiKey.key_id == key_id, live)).one_or_none()
    return None if found is None else (found[0], found[1])


def mark_used(session: Session, key: ApiKey) -> None:
    """Remember that the key was used, to the minute."""
    session.execute(_USED, {"id": key.id})


def ensure_tenant(session: Session, name: str) -> Tenant:
    """The tenant of that name; made when there is none."""
    session.execute(insert(Tenant).values(id=new_id(), name=name).on_conflict_do_nothing())
    return session.execute(select(Tenant).where(Tenant.name == name)).scalar_one()


def add(session: Session, key: ApiKey) -> ApiKey:
    """Write a key and read it back, birthday included."""
    session.add(key)
    session.flush()
    session.refresh(key)
    return key


def ensure(session: Session, key: ApiKey) -> None:
    """Write a key unless its key id is there already."""
    values = {name: getattr(key, name) for name in ("id", "tenant_id", "key_id", "secret_hmac", "name", "scopes")}
    session.execute(insert(ApiKey).values(**values).on_conflict_do_nothing(index_elements=["key_id"]))


def page(session: Session, tenant_id: UUID, *, after: UUID | None, limit: int) -> Sequence[ApiKey]:
    """A tenant's keys, newest first, revoked ones included."""
    query = select(ApiKey).where(ApiKey.tenant_id == tenant_id).order_by(ApiKey.id.desc()).limit(limit)
    return session.scalars(query if after is None else query.where(ApiKey.id < after)).all()


def get(session: Session, tenant_id: UUID, id: UUID) -> ApiKey | None:
    """One of a tenant's keys."""
    return session.scalar(select(ApiKey).where(ApiKey.tenant_id == tenant_id, ApiKey.id == id))


def revoke(session: Session, tenant_id: UUID, id: UUID) -> ApiKey | None:
    """End a key's life now, unless it has ended already."""
    return session.scalar(
        update(ApiKey)
        .where(ApiKey.tenant_id == tenant_id, ApiKey.id == id)
        .values(revoked_at=func.coalesce(ApiKey.revoked_at, func.clock_timestamp()))
        .returning(ApiKey)
        .execution_options(populate_existing=True)
    )
