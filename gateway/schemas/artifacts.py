"""The artifact resource."""

from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field

from gateway.schemas.common import Moment, Out
from shared.db.models import Artifact


class ArtifactOut(Out):
    """A result of a job: bytes with a name, or a folder whose manifest is listed under `files`."""

    id: UUID
    object: Literal["artifact"] = "artifact"
    job_id: UUID
    attempt: int
    name: str
    media_type: str
    bytes: int
    sha256: str
    files: list[dict[str, Any]] | None = Field(description="path, sha256 and bytes of each file of a folder")
    created_at: Moment
    content: str = Field(description="path of the bytes")

    @classmethod
    def of(cls, row: Artifact) -> Self:
        """The resource of a row."""
        return cls(
            id=row.id,
            job_id=row.job_id,
            attempt=row.attempt,
            name=row.name,
            media_type=row.media_type,
            bytes=row.bytes,
            sha256=row.sha256,
            files=row.manifest,
            created_at=row.created_at,
            content=f"/v1/artifacts/{row.id}/content",
        )
