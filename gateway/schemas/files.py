"""The file resource, as OpenAI spells it; times are Unix seconds."""

from typing import Literal, Self

from pydantic import Field

from gateway.schemas.common import Out, unix_seconds
from services.files.service import public_id
from shared.db.models import File


class FileOut(Out):
    """An upload."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str
    status_details: str | None = None
    sha256: str = Field(description="ours: of the content")

    @classmethod
    def of(cls, row: File) -> Self:
        """The resource of a row."""
        return cls(
            id=public_id(row),
            bytes=row.bytes,
            created_at=int(row.created_at.timestamp()),
            expires_at=unix_seconds(row.expires_at),
            filename=row.filename,
            purpose=row.purpose,
            status=row.status,
            sha256=row.sha256,
        )


class FileDeleted(Out):
    """The answer to a delete."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
