"""The model resource, as OpenAI spells it, with more of ours beside."""

from typing import Literal, Self

from pydantic import Field

from gateway.schemas.common import Out
from shared.db.models import Model


class ModelOut(Out):
    """The newest version of a model."""

    id: str = Field(description="its name: what `model` takes")
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    context_length: int
    parameters: int
    dtype: str
    bytes: int
    version: int
    digest: str

    @classmethod
    def of(cls, row: Model, *, owned_by: str) -> Self:
        """The resource of a row."""
        return cls(
            id=row.name,
            created=int(row.created_at.timestamp()),
            owned_by=owned_by,
            context_length=row.context_length,
            parameters=row.parameters,
            dtype=row.dtype,
            bytes=row.bytes,
            version=row.version,
            digest=row.digest,
        )


class ModelList(Out):
    """All models, on one page, as OpenAI's clients expect."""

    object: Literal["list"] = "list"
    data: list[ModelOut]
