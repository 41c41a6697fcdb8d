"""API keys: what one asks for, and what is shown of it."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, Field

from gateway.schemas.common import Moment, Out
from shared.contracts.jobs import Contract, Text
from shared.db.models import ApiKey


class ApiKeyRequest(Contract):
    """A key to make. It gets no scope that the asking key lacks."""

    name: Annotated[Text, Field(min_length=1, max_length=64)]
    scopes: Annotated[list[Text], Field(min_length=1, max_length=64)]
    expires_at: AwareDatetime | None = None


class ApiKeyOut(Out):
    """A key, without its secret."""

    id: UUID
    object: Literal["api_key"] = "api_key"
    key_id: str = Field(description="the third part of the key's text")
    name: str
    scopes: list[str]
    created_at: Moment
    expires_at: Moment | None
    revoked_at: Moment | None
    last_used_at: Moment | None = Field(description="to the minute")
    key: str | None = Field(None, description="the key's text, in the answer that makes it and nowhere else")

    @classmethod
    def of(cls, row: ApiKey, *, token: str | None = None) -> Self:
        """The resource of a row."""
        return cls(
            id=row.id,
            key_id=row.key_id,
            name=row.name,
            scopes=row.scopes,
            created_at=row.created_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
            last_used_at=row.last_used_at,
            key=token,
        )
