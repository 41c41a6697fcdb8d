"""What a caller may say about the response cache: the field `cache` of a chat, a completion or an embedding."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.bodies import Body, Inconsistent, parse

FIELD = "cache"
LONGEST_TTL_S = 30 * 86_400

CacheMode = Literal["auto", "on", "off", "refresh"]


class CacheWish(Body):
    """`auto`: a request whose answer is always the same (temperature 0, or a seed) is answered from the cache.

    `on` does so with any request, `off` neither looks nor stores, `refresh` asks the engine and stores its answer.
    """

    mode: CacheMode = "auto"
    ttl: Annotated[int, Field(ge=1, le=LONGEST_TTL_S)] | None = None  #: seconds that an answer stored now is kept

    @model_validator(mode="after")
    def _kept(self) -> Self:
        if self.mode == "off" and self.ttl is not None:
            raise Inconsistent("ttl", "ttl goes with a mode that keeps answers")
        return self


class _Wished(Body):
    cache: CacheWish = CacheWish()


def take(fields: Mapping[str, Any]) -> tuple[CacheWish, dict[str, Any]]:
    """The wish in a body's fields, and the fields without it: engines do not know it.

    Raises:
        BadRequest: the wish is malformed; `param` is `cache`, `cache.mode` or `cache.ttl`.
    """
    rest = {name: value for name, value in fields.items() if name != FIELD}
    if fields.get(FIELD) is None:
        return CacheWish(), rest
    return parse({FIELD: fields[FIELD]}, _Wished).cache, rest
