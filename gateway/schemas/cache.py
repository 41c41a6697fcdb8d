"""The response cache as its tenants see it."""

from typing import Literal, Self

from pydantic import Field

from gateway.schemas.common import Out
from services.responses.service import Limits
from services.responses.types import Figures


class CacheOut(Out):
    """What the response cache did for you, since its counters began: Redis may forget them under pressure."""

    object: Literal["cache"] = "cache"
    enabled: bool = Field(description="false: this deployment keeps no answers (`MODELYARD_CACHE_TTL_S` is 0)")
    hits: int
    misses: int
    coalesced: int = Field(description="calls that were answered with the answer of an equal one under way")
    hit_rate: float | None = Field(description="hits and coalesced among all that looked; null: nobody did")
    stored: int = Field(description="answers written in all; how many are left is not known")
    stored_bytes: int = Field(description="their size as stored, what has expired since included")
    purges: int
    ttl_s: int = Field(description="how long an answer is kept unless the caller says otherwise")
    entry_bytes: int = Field(description="largest answer that is kept")

    @classmethod
    def of(cls, figures: Figures, limits: Limits) -> Self:
        """The counters of one tenant."""
        served = figures.hits + figures.coalesced
        looked = served + figures.misses
        return cls(
            enabled=limits.ttl_s > 0,
            hits=figures.hits,
            misses=figures.misses,
            coalesced=figures.coalesced,
            hit_rate=round(served / looked, 4) if looked else None,
            stored=figures.stored,
            stored_bytes=figures.stored_bytes,
            purges=figures.purges,
            ttl_s=limits.ttl_s,
            entry_bytes=limits.entry_bytes,
        )


class CachePurged(Out):
    """What was forgotten."""

    object: Literal["cache"] = "cache"
    purged: bool = True
    model: str | None = Field(description="as it was named; null: every model")
