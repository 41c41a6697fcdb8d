"""An upload's parts become one file: streamed from the store into the store, nothing held but a chunk.

`begin` holds the upload for a while, `finish` renews the hold as it goes. Who dies in between has changed nothing, and
the hold runs out; of two who finish, one writes the file.
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from services.blobs import service as blobs
from services.files import service as files
from services.files import uploads
from services.files import uploads_repository as repository
from services.files.service import Purpose, Wish
from services.files.uploads import Shown
from services.files.uploads_repository import Found
from shared.clock import monotonic
from shared.db.models import Upload, UploadPart
from shared.db.session import Database
from shared.errors import DatabaseUnavailable, InvalidField
from shared.ids import parse_prefixed
from shared.storage import Blob, Store

LEASE_S = 30.0


@dataclass(frozen=True)
class Joining:
    """An upload that this process puts together: its parts, in the order that the caller named them."""

    upload: Upload
    parts: tuple[UploadPart, ...]

    @property
    def blobs(self) -> list[Blob]:
        """What the parts hold."""
        return [Blob(part.sha256, part.bytes) for part in self.parts]


def begin(session: Session, tenant_id: UUID, upload_id: str, *, part_ids: Sequence[str]) -> Joining | Shown | None:
    """Take an upload in order to `finish` it; what it is, if these parts have completed it; None: somebody else does.

    Raises:
        NotFound: there is no upload of that id.
        UploadCompleted: it was completed with other parts.
        UploadCancelled, UploadExpired: it has ended.
        InvalidField: a part is unknown or named twice, or the parts are not as many bytes as the upload.
    """
    found = uploads.find(session, tenant_id, upload_id, lock=True)
    if found.upload.status == "completed":
        return _repeated(session, found, repository.parts(session, found.upload.id), part_ids)
    if not found.open:
        uploads.refuse(found.upload)
    if found.held:
        return None
    chosen = _chosen(repository.parts(session, found.upload.id), part_ids)
    size = sum(part.bytes for part in chosen)
    if size != found.upload.bytes:
        message = f"The parts have {size} bytes, the upload was announced with {found.upload.bytes}."
        raise InvalidField(message, param="part_ids")
    repository.hold(session, found.upload.id, lease_s=LEASE_S)
    return Joining(found.upload, chosen)


def finish(database: Database, store: Store, joining: Joining, *, md5: str | None = None) -> Shown:
    """Put the parts together and name the file. Takes as long as reading them twice; call it with no transaction open.

    Raises:
        InvalidField: `md5`, in hex, is another.
        UploadCancelled: it was, meanwhile.
        BlobMissing, BlobCorrupt: the store has lost a part.
        StoreUnavailable, DatabaseUnavailable: the upload is as it was, and may be completed again.
    """
    try:
        whole = _join(store, joining, lease=_Lease(database, joining.upload), md5=md5)
        with database.transaction() as session:
            return _write(session, joining, whole)
    except Exception:
        with suppress(DatabaseUnavailable), database.transaction() as session:
            repository.release(session, joining.upload.id)
        raise


class _Lease:
    """The hold on an upload, renewed while bytes flow."""

    def __init__(self, database: Database, upload: Upload) -> None:
        self._database, self._upload = database, upload
        self._renewed_at = monotonic()

    def renew(self, _bytes: int = 0) -> None:
        """Hold it anew, once in a while. Raises how the upload has ended, if somebody has ended it."""
        if monotonic() - self._renewed_at < LEASE_S / 3:
            return
        self._renewed_at = monotonic()
        # A database that is away costs at most a second process that does the same.
        with suppress(DatabaseUnavailable), self._database.transaction() as session:
            if repository.hold(session, self._upload.id, lease_s=LEASE_S):
                return
            found = repository.get(session, self._upload.tenant_id, self._upload.id)
            assert found is not None, self._upload.id
            uploads.refuse(found.upload)


def _join(store: Store, joining: Joining, *, lease: _Lease, md5: str | None) -> Blob:
    tenant_id, parts = joining.upload.tenant_id, joining.blobs
    if len(parts) == 1 and md5 is None:
        whole = parts[0]
    else:
        whole = _measured(store.chunks(tenant_id, parts), lease=lease, md5=md5)
    store.join(tenant_id, parts, whole, tell=lease.renew)
    return whole


def _measured(chunks: Iterable[bytes], *, lease: _Lease, md5: str | None) -> Blob:
    """What the chunks make. Their MD5 is only worked out to be compared."""
    sha256, size = hashlib.sha256(), 0
    compared = None if md5 is None else hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        sha256.update(chunk)
        size += len(chunk)
        if compared is not None:
            compared.update(chunk)
        lease.renew()
    if compared is not None and md5 is not None and compared.hexdigest() != md5.lower():
        raise InvalidField(f"The parts make a file whose MD5 is {compared.hexdigest()}.", param="md5")
    return Blob(sha256.hexdigest(), size)


def _write(session: Session, joining: Joining, whole: Blob) -> Shown:
    """Name the file and end the upload, unless somebody was quicker."""
    upload_id = uploads.public_id(joining.upload)
    found = uploads.find(session, joining.upload.tenant_id, upload_id, lock=True)
    upload, ids = found.upload, [part.id for part in joining.parts]
    parts = repository.parts(session, upload.id)
    if upload.status == "completed":
        return _repeated(session, found, parts, [uploads.public_part_id(part) for part in joining.parts])
    if upload.status != "pending":
        uploads.refuse(upload)
    wish = Wish(upload.filename, Purpose(upload.purpose), upload.file_expires_s)
    file = files.add(session, upload.tenant_id, wish, blob=whole)
    upload.status, upload.file_id, upload.completing_until = "completed", file.id, None
    repository.place(session, upload.id, ids)
    blobs.forget(session, upload.tenant_id, sorted({part.sha256 for part in parts}))
    return Shown(upload, file)


def _repeated(session: Session, found: Found, parts: Sequence[UploadPart], part_ids: Sequence[str]) -> Shown:
    """A completion that comes again, because its answer was lost, has the same answer."""
    if [uploads.public_part_id(part) for part in parts] != list(part_ids):
        uploads.refuse(found.upload)
    return Shown(found.upload, repository.file_of(session, found.upload))


def _chosen(parts: Sequence[UploadPart], part_ids: Sequence[str]) -> tuple[UploadPart, ...]:
    """The parts of these ids, in their order."""
    known = {part.id: part for part in parts}
    chosen: dict[UUID, UploadPart] = {}
    for number, spelled in enumerate(part_ids):
        part = known.get(parse_prefixed(uploads.PART_PREFIX, spelled) or UUID(int=0))
        if part is None:
            raise InvalidField(f"The upload has no part {spelled[:64]!r}.", param=f"part_ids.{number}")
        if part.id in chosen:
            raise InvalidField(f"The part {spelled[:64]!r} is named twice.", param=f"part_ids.{number}")
        chosen[part.id] = part
    return tuple(chosen.values())
