"""Files: a name, a purpose and an expiry in front of a blob of the tenant."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self
from uuid import UUID

from sqlalchemy.orm import Session

from services.blobs import service as blobs
from services.files import repository
from shared.contracts import batches as batch_limits
from shared.db.models import File
from shared.errors import InvalidField, NotFound, inside
from shared.ids import new_id, parse_prefixed, prefixed
from shared.ranges import Slice
from shared.storage import Blob, Content, Store

PREFIX = "file-"
NAME_BYTES = 255
FILE_BYTES = 512 * 1024**2  # OpenAI's limits
BATCH_BYTES = batch_limits.FILE_BYTES
EXPIRY_S = batch_limits.EXPIRY_S
BATCH_EXPIRY_S = EXPIRY_S[1]


class Purpose(StrEnum):
    """What a file is for. `document`, `calibration` and `model` are ours, the others OpenAI's."""

    ASSISTANTS = "assistants"  #: accepted, as any file
    BATCH = "batch"  #: lines of a batch; expires after thirty days unless told otherwise
    FINE_TUNE = "fine-tune"  #: examples to train on
    VISION = "vision"  #: accepted, as any file
    USER_DATA = "user_data"  #: anything, prompts of an inference job among it
    EVALS = "evals"  #: examples to evaluate on
    DOCUMENT = "document"  #: a document to read
    CALIBRATION = "calibration"  #: samples to calibrate on
    MODEL = "model"  #: weights, configuration or tokenizer of a model that will be registered
    BATCH_OUTPUT = "batch_output"  #: what a batch wrote; never uploaded
    FINE_TUNE_RESULTS = "fine-tune-results"  #: metrics of a tuning, step by step; never uploaded


#: purposes that a caller may give
UPLOADED = tuple(purpose for purpose in Purpose if purpose not in (Purpose.BATCH_OUTPUT, Purpose.FINE_TUNE_RESULTS))


@dataclass(frozen=True)
class Wish:
    """What a caller may choose of a file, checked."""

    filename: str
    purpose: Purpose
    expires_in_s: int | None

    @classmethod
    def of(cls, filename: str, purpose: str, expires_in_s: int | None, *, named: str = "file") -> Self:
        """Check it; `named` is the field that has the name.

        Raises:
            InvalidField: the name, the purpose or the expiry is not allowed.
        """
        name, wanted = _name(filename, named), _purpose(purpose)
        return cls(name, wanted, _expiry(expires_in_s, wanted))


def create(
    session: Session,
    store: Store,
    tenant_id: UUID,
    *,
    filename: str,
    purpose: str,
    chunks: Iterable[bytes],
    expires_in_s: int | None = None,
) -> File:
    """Store what `chunks` yield and name it. The session must not have begun: the upload comes before its first SQL.

    Raises:
        InvalidField: the name, the purpose or the expiry is not allowed.
        TooLarge: more bytes than the purpose allows.
        StoreUnavailable: the store did not take it.
    """
    wish = Wish.of(filename, purpose, expires_in_s)
    assert not session.in_transaction()
    with inside("file"):
        blob = store.put_stream(tenant_id, chunks, limit=limit(wish.purpose))
    return add(session, tenant_id, wish, blob=blob)


def add_output(
    session: Session, tenant_id: UUID, *, filename: str, blob: Blob, expires_in_s: int | None = None
) -> File:
    """Name a blob that a batch wrote; `expires_in_s` as the batch asked for it, None: it stays."""
    return add(session, tenant_id, Wish(filename, Purpose.BATCH_OUTPUT, expires_in_s), blob=blob)


def add(session: Session, tenant_id: UUID, wish: Wish, *, blob: Blob) -> File:
    """Name a blob that is stored."""
    row = File(
        id=new_id(),
        tenant_id=tenant_id,
        filename=wish.filename,
        purpose=wish.purpose,
        bytes=blob.bytes,
        sha256=blob.sha256,
    )
    return repository.add(session, row, expires_in_s=wish.expires_in_s)


def limit(purpose: Purpose) -> int:
    """The most bytes that a file of this purpose may have."""
    return BATCH_BYTES if purpose is Purpose.BATCH else FILE_BYTES


def public_id(file: File) -> str:
    """The id that callers see: `file-` and 32 hex digits."""
    return prefixed(PREFIX, file.id)


def get(session: Session, tenant_id: UUID, file_id: str, *, param: str = "file_id") -> File:
    """The tenant's file of a public id.

    Raises:
        NotFound: there is none of that id, or it is deleted or expired; `param` names the offending field.
    """
    parsed = parse_prefixed(PREFIX, file_id)
    file = None if parsed is None else repository.get(session, tenant_id, parsed)
    if file is None:
        raise NotFound("There is no such file.", param=param)
    return file


def page(
    session: Session,
    tenant_id: UUID,
    *,
    purpose: str | None = None,
    after: str | None = None,
    limit: int = 10_000,
    oldest_first: bool = False,
) -> Sequence[File]:
    """The tenant's files, newest first unless told otherwise, at most `limit` after the file `after`.

    Raises:
        NotFound: `after` names no file of the tenant.
    """
    start = None if after is None else get(session, tenant_id, after, param="after").id
    return repository.page(session, tenant_id, purpose=purpose, after=start, limit=limit, oldest_first=oldest_first)


def delete(session: Session, tenant_id: UUID, file_id: str) -> None:
    """Forget a file. Jobs that wait for it still read it, and those that have read it keep what they read.

    Raises:
        NotFound: there is none of that id.
    """
    parsed = parse_prefixed(PREFIX, file_id)
    sha256 = None if parsed is None else repository.delete(session, tenant_id, parsed)
    if sha256 is None:
        raise NotFound("There is no such file.", param="file_id")
    blobs.forget(session, tenant_id, [sha256])


def content(store: Store, file: File, *, wanted: Slice) -> Content:
    """The bytes of a file, as chunks. Call it with no transaction open.

    Raises:
        BlobMissing: the store has lost it.
        StoreUnavailable: the store cannot be reached.
    """
    return store.open(file.tenant_id, Blob(file.sha256, file.bytes), start=wanted.start, length=wanted.length)


def expire(session: Session, *, limit: int = 1000) -> int:
    """Hide files whose time is over; how many."""
    expired = repository.expire(session, limit=limit)
    blobs.forget_all(session, expired)
    return len(expired)


def _name(filename: str, param: str) -> str:
    name = unicodedata.normalize("NFC", filename)
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidField("The file name is not valid Unicode.", param=param) from error
    if not 0 < size <= NAME_BYTES or any(unicodedata.category(letter) == "Cc" for letter in name):
        raise InvalidField(f"A file name has 1–{NAME_BYTES} bytes and no control characters.", param=param)
    return name


def _purpose(purpose: str) -> Purpose:
    if purpose not in UPLOADED:
        raise InvalidField(f"purpose is one of {', '.join(UPLOADED)}.", param="purpose")
    return Purpose(purpose)


def _expiry(seconds: int | None, purpose: Purpose) -> int | None:
    least, most = EXPIRY_S
    if seconds is None:
        return BATCH_EXPIRY_S if purpose is Purpose.BATCH else None
    if not least <= seconds <= most:
        raise InvalidField(f"expires_after is {least}–{most} seconds after created_at.", param="expires_after.seconds")
    return seconds
