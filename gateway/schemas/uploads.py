"""The upload resource, as OpenAI spells it; times are Unix seconds."""

from typing import Annotated, Literal, Self

from pydantic import Field

from gateway.schemas.common import Out
from gateway.schemas.files import FileOut
from services.files.uploads import PARTS, UPLOAD_BYTES, NewUpload, Shown, public_id, public_part_id
from shared.contracts.jobs import Contract, Text
from shared.db.models import UploadPart


class ExpiresAfter(Contract):
    """When the file will expire."""

    anchor: Literal["created_at"]
    seconds: int = Field(description="after the file is made; an hour to thirty days")


class UploadRequest(Contract):
    """A file that will come in parts."""

    bytes: Annotated[int, Field(description=f"of the whole file, at most {UPLOAD_BYTES}; of a batch, 200 MiB")]
    filename: Text
    mime_type: Annotated[Text, Field(min_length=1, max_length=255)]
    purpose: Text
    expires_after: ExpiresAfter | None = None

    def new(self) -> NewUpload:
        """What the service makes of it."""
        expires_in_s = None if self.expires_after is None else self.expires_after.seconds
        return NewUpload(self.filename, self.purpose, self.mime_type, self.bytes, expires_in_s)


class CompleteRequest(Contract):
    """The parts of a file, in their order."""

    part_ids: Annotated[list[Annotated[Text, Field(max_length=64)]], Field(min_length=1, max_length=PARTS)]
    md5: Annotated[str, Field(pattern="^[0-9a-fA-F]{32}$", description="of the whole file, in hex")] | None = None


class UploadOut(Out):
    """A file that comes in parts."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    mime_type: str = Field(description="ours: as it was given")
    purpose: str
    status: str
    file: FileOut | None = Field(description="what it has become, once it is completed")

    @classmethod
    def of(cls, shown: Shown) -> Self:
        """The resource of a row."""
        row = shown.upload
        return cls(
            id=public_id(row),
            bytes=row.bytes,
            created_at=int(row.created_at.timestamp()),
            expires_at=int(row.expires_at.timestamp()),
            filename=row.filename,
            mime_type=row.mime_type,
            purpose=row.purpose,
            status=row.status,
            file=None if shown.file is None else FileOut.of(shown.file),
        )


class UploadPartOut(Out):
    """A part of an upload."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
    bytes: int = Field(description="ours")
    sha256: str = Field(description="ours: of the part")

    @classmethod
    def of(cls, row: UploadPart, *, upload_id: str) -> Self:
        """The resource of a row."""
        return cls(
            id=public_part_id(row),
            created_at=int(row.created_at.timestamp()),
            upload_id=upload_id,
            bytes=row.bytes,
            sha256=row.sha256,
        )
