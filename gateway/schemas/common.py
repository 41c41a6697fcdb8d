"""Shapes that several resources share."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

#: RFC 3339, in UTC whatever time zone the database speaks
Moment = Annotated[datetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


class Out(BaseModel):
    """Something that we answer."""

    model_config = ConfigDict(frozen=True)

    def json_bytes(self) -> bytes:
        """The body of an answer."""
        return self.__pydantic_serializer__.to_json(self)


def unix_seconds(moment: datetime | None) -> int | None:
    """A time as OpenAI spells it."""
    return None if moment is None else int(moment.timestamp())


T = TypeVar("T", bound=Out)
Row = TypeVar("Row")


class Page(Out, Generic[T]):
    """A page of a list; the next one is `?after=<last_id>`."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None = Field(description="id of the first row; null when there is none")
    last_id: str | None = Field(description="id of the last row; null when there is none")
    has_more: bool

    @classmethod
    def of(cls, rows: Sequence[Row], *, limit: int, shown: Callable[[Row], T], backwards: bool = False) -> Self:
        """A page made of up to `limit + 1` rows: one too many says that there are more.

        Rows of a page that was asked for `before` a cursor are too many at their beginning.
        """
        kept = rows[-limit:] if backwards else rows[:limit]
        data = [shown(row) for row in kept]
        ids = [str(getattr(each, "id")) for each in data]  # noqa: B009 - every listed resource has one
        return cls(
            data=data,
            first_id=ids[0] if ids else None,
            last_id=ids[-1] if ids else None,
            has_more=len(rows) > limit,
        )


class Problem(Out):
    """Every error: RFC 9457 members, ours, and OpenAI's `error`."""

    class FieldProblem(Out):
        """One offending field."""

        param: str
        code: str
        message: str

    class OpenAIError(Out):
        """What OpenAI's clients read."""

        message: str
        type: str
        param: str | None
        code: str

    type: str = Field(description="where the code is explained, relative to this gateway")
    title: str
    status: int
    detail: str
    instance: str
    code: str
    param: str | None
    request_id: str
    retryable: bool
    errors: list[FieldProblem]
    error: OpenAIError
