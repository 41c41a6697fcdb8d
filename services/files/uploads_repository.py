"""Uploads and their parts in SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Uuid

from shared.db.models import File, Upload, UploadPart

_PLACE = text("""
UPDATE upload_parts p SET position = named.place
FROM unnest(:ids) WITH ORDINALITY AS named(id, place) WHERE p.id = named.id AND p.upload_id = :upload_id
""").bindparams(bindparam("ids", type_=ARRAY(Uuid)))

_EXPIRE = text("""
UPDATE uploads SET status = 'expired' WHERE id IN (
  SELECT id FROM uploads WHERE status = 'pending' AND expires_at < clock_timestamp()
    AND (completing_until IS NULL OR completing_until < clock_timestamp())
  ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED)
RETURNING id
""")

# A completion may be repeated until the upload would have expired.
_FORGET_ENDED = text("""
DELETE FROM upload_parts WHERE id IN (
  SELECT p.id FROM upload_parts p JOIN uploads u ON u.id = p.upload_id
  WHERE u.status = 'completed' AND u.expires_at < clock_timestamp() LIMIT :limit)
""")


@dataclass(frozen=True)
class Found:
    """An upload, by the database's clock."""

    upload: Upload
    late: bool  #: its time is over
    held: bool  #: somebody puts its parts together

    @property
    def open(self) -> bool:
        """Whether it can still be ended by its owner; one that is being put together is not late any more."""
        return self.upload.status == "pending" and (self.held or not self.late)


def add(session: Session, upload: Upload, *, expires_in_s: float) -> Upload:
    """Write an upload and read it back, birthday and expiry included."""
    upload.expires_at = _in(expires_in_s)  # type: ignore[assignment]
    session.add(upload)
    session.flush()
    session.refresh(upload)
    return upload


def get(session: Session, tenant_id: UUID, id: UUID, *, lock: bool = False, share: bool = False) -> Found | None:
    """One of a tenant's uploads. `lock` holds it against everybody, `share` against those who would end it."""
    now = func.clock_timestamp()
    held = func.coalesce(Upload.completing_until > now, False)
    query = select(Upload, Upload.expires_at <= now, held).where(Upload.tenant_id == tenant_id, Upload.id == id)
    if lock or share:
        query = query.with_for_update(read=share, of=Upload)
    row = session.execute(query).one_or_none()
    return None if row is None else Found(*row)


def file_of(session: Session, upload: Upload) -> File | None:
    """What an upload has become, unless that is deleted."""
    return session.scalar(select(File).where(File.id == upload.file_id, File.deleted_at.is_(None)))


def hold(session: Session, id: UUID, *, lease_s: float) -> bool:
    """Keep others from ending a pending upload for a while; False when it has ended."""
    held = update(Upload).where(Upload.id == id, Upload.status == "pending").values(completing_until=_in(lease_s))
    return session.scalar(held.returning(Upload.id)) is not None


def release(session: Session, id: UUID) -> None:
    """Let go of a pending upload."""
    session.execute(update(Upload).where(Upload.id == id, Upload.status == "pending").values(completing_until=None))


def add_part(session: Session, part: UploadPart) -> UploadPart:
    """Write a part and read it back."""
    session.add(part)
    session.flush()
    session.refresh(part)
    return part


def count_parts(session: Session, upload_id: UUID) -> int:
    """How many parts an upload has."""
    return session.scalar(select(func.count()).where(UploadPart.upload_id == upload_id)) or 0


def parts(session: Session, upload_id: UUID) -> Sequence[UploadPart]:
    """The parts of an upload, those of the file that it has become first and in order."""
    ordered = select(UploadPart).order_by(UploadPart.position.nulls_last(), UploadPart.id)
    return session.scalars(ordered.where(UploadPart.upload_id == upload_id)).all()


def place(session: Session, upload_id: UUID, ids: Sequence[UUID]) -> None:
    """Note the order of the parts that make the file, and drop the others."""
    session.execute(_PLACE, {"ids": list(ids), "upload_id": upload_id})
    session.execute(delete(UploadPart).where(UploadPart.upload_id == upload_id, UploadPart.position.is_(None)))


def drop_parts(session: Session, upload_ids: Sequence[UUID]) -> list[tuple[UUID, str]]:
    """Drop the parts of uploads; their tenants and digests."""
    dropped = delete(UploadPart).where(UploadPart.upload_id.in_(upload_ids))
    lost = session.execute(dropped.returning(UploadPart.tenant_id, UploadPart.sha256))
    return [(tenant_id, sha256) for tenant_id, sha256 in lost]


def expire(session: Session, *, limit: int) -> list[UUID]:
    """End uploads whose time is over and that nobody puts together; which."""
    return list(session.scalars(_EXPIRE, {"limit": limit}))


def forget_ended(session: Session, *, limit: int) -> None:
    """Drop parts of completed uploads that only a repeated completion would ask for."""
    session.execute(_FORGET_ENDED, {"limit": limit})


def _in(seconds: float) -> ColumnElement[object]:
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
