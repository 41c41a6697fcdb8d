"""Uploads: large files that come in parts, in any order and at once. A part is a blob of its own until the end.

    pending → completed | cancelled | expired

`services.files.completion` puts the parts together.
"""

from dataclasses import dataclass
from typing import NoReturn
from uuid import UUID

from sqlalchemy.orm import Session

from services.blobs import service as blobs
from services.files import uploads_repository as repository
from services.files.service import BATCH_BYTES, Purpose, Wish
from services.files.uploads_repository import Found
from shared.db.models import File, Upload, UploadPart
from shared.errors import Conflict, InvalidField, NotFound, Unavailable
from shared.ids import new_id, parse_prefixed, prefixed
from shared.storage import Blob

PREFIX = "upload_"
PART_PREFIX = "part_"
UPLOAD_BYTES = 8 * 1024**3  # OpenAI's limits
PART_BYTES = 64 * 1024**2
PARTS = 10_000  #: of one upload, those sent twice included
SWEPT = 20  #: uploads expired in one transaction: each may have `PARTS` rows
SWEPT_PARTS = 20_000


class UploadCompleted(Conflict):
    """The upload is completed: it takes no more parts, and can only be completed again with the same ones."""

    code = "upload_completed"


class UploadCancelled(Conflict):
    """The upload is cancelled."""

    code = "upload_cancelled"


class UploadExpired(Conflict):
    """The upload has expired: make a new one."""

    code = "upload_expired"


class UploadBusy(Unavailable):
    """The upload is being completed by another call: send the request again."""

    code = "upload_busy"


@dataclass(frozen=True)
class NewUpload:
    """What a caller announces."""

    filename: str
    purpose: str
    mime_type: str
    bytes: int
    expires_in_s: int | None = None  #: of the file that it will be


@dataclass(frozen=True)
class Shown:
    """An upload, with the file that it has become."""

    upload: Upload
    file: File | None = None


def public_id(upload: Upload) -> str:
    """The id that callers see: `upload_` and 32 hex digits."""
    return prefixed(PREFIX, upload.id)


def public_part_id(part: UploadPart) -> str:
    """The id that callers see: `part_` and 32 hex digits."""
    return prefixed(PART_PREFIX, part.id)


def create(session: Session, tenant_id: UUID, new: NewUpload, *, open_s: float) -> Shown:
    """Announce a file; its parts have `open_s` to come.

    Raises:
        InvalidField: the name, the purpose, the size or the expiry is not allowed.
    """
    wish = Wish.of(new.filename, new.purpose, new.expires_in_s, named="filename")
    most = BATCH_BYTES if wish.purpose is Purpose.BATCH else UPLOAD_BYTES
    if not 0 < new.bytes <= most:
        raise InvalidField(f"An upload for {wish.purpose} has 1–{most} bytes.", param="bytes")
    row = Upload(
        id=new_id(),
        tenant_id=tenant_id,
        filename=wish.filename,
        purpose=wish.purpose,
        mime_type=new.mime_type,
        bytes=new.bytes,
        file_expires_s=wish.expires_in_s,
    )
    return Shown(repository.add(session, row, expires_in_s=open_s))


def find(session: Session, tenant_id: UUID, upload_id: str, *, lock: bool = False, share: bool = False) -> Found:
    """The tenant's upload of a public id; `lock` and `share` as of `uploads_repository.get`.

    Raises:
        NotFound: there is none of that id.
    """
    parsed = parse_prefixed(PREFIX, upload_id)
    found = None if parsed is None else repository.get(session, tenant_id, parsed, lock=lock, share=share)
    if found is None:
        raise NotFound("There is no such upload.", param="upload_id")
    return found


def pending(session: Session, tenant_id: UUID, upload_id: str, *, share: bool = False) -> Upload:
    """An upload that takes parts.

    Raises:
        NotFound: there is none of that id.
        UploadCompleted, UploadCancelled, UploadExpired: it has ended.
    """
    found = find(session, tenant_id, upload_id, share=share)
    if not found.open:
        refuse(found.upload)
    return found.upload


def add_part(session: Session, tenant_id: UUID, upload_id: str, *, blob: Blob) -> UploadPart:
    """Name a stored part.

    Raises:
        NotFound, UploadCompleted, UploadCancelled, UploadExpired: as `pending`.
        InvalidField: the upload has as many parts as it may.
    """
    upload = pending(session, tenant_id, upload_id, share=True)
    if repository.count_parts(session, upload.id) >= PARTS:
        raise InvalidField(f"An upload has at most {PARTS} parts.", param="data")
    row = UploadPart(id=new_id(), upload_id=upload.id, tenant_id=tenant_id, bytes=blob.bytes, sha256=blob.sha256)
    return repository.add_part(session, row)


def cancel(session: Session, tenant_id: UUID, upload_id: str) -> Shown:
    """Give an upload up; one that is cancelled already stays so.

    Raises:
        NotFound: there is none of that id.
        UploadCompleted, UploadExpired: it has ended otherwise.
    """
    found = find(session, tenant_id, upload_id, lock=True)
    upload = found.upload
    if upload.status == "cancelled":
        return Shown(upload)
    if not found.open:
        refuse(upload)
    upload.status = "cancelled"
    _drop_parts(session, [upload.id])
    return Shown(upload)


def expire(session: Session) -> int:
    """End uploads whose time is over, and forget their parts; how many."""
    expired = repository.expire(session, limit=SWEPT)
    _drop_parts(session, expired)
    repository.forget_ended(session, limit=SWEPT_PARTS)
    return len(expired)


def refuse(upload: Upload) -> NoReturn:
    """Say how an upload has ended; one that is still pending is late."""
    ended = {"completed": UploadCompleted, "cancelled": UploadCancelled}.get(upload.status, UploadExpired)
    raise ended(param="upload_id")


def _drop_parts(session: Session, upload_ids: list[UUID]) -> None:
    blobs.forget_all(session, repository.drop_parts(session, upload_ids))
