"""Values of the response cache."""

import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson

COMPRESS_BYTES: Final = 4096  #: from here on an answer is stored compressed (level 1: 4 ms and a fifth for 1 MiB)


class Verdict(StrEnum):
    """What the cache did for a call: the value of `x-cache`."""

    HIT = "hit"  #: answered from the cache
    MISS = "miss"  #: looked up, not there: the engine was asked, and its answer is kept
    BYPASS = "bypass"  #: neither looked up nor kept
    COALESCED = "coalesced"  #: the same request was under way already: answered with its answer


@dataclass(frozen=True)
class Key:
    """One answer's place: who may see it, the weights that gave it, and the digest of everything that it hangs on."""

    tenant: UUID
    digest: str  #: of the base model
    adapter: str | None
    sha256: str

    @property
    def name(self) -> str:
        """Where Redis keeps the answer. A tenant's names share a hash slot."""
        return f"{{{self.tenant}}}:answer:{self.sha256}"

    @property
    def generations(self) -> list[str]:
        """Names of the nonces that a purge changes: the tenant's, and one for each of the weights."""
        return [f"{{{self.tenant}}}:since", *(f"{{{self.tenant}}}:since:{each}" for each in self.weights)]

    @property
    def weights(self) -> list[str]:
        """Digests of the base and, where there is one, of the adapter."""
        return [self.digest, self.adapter] if self.adapter else [self.digest]


@dataclass(frozen=True)
class Stored:
    """A whole answer as the engine gave it: one JSON object."""

    body: bytes

    def json(self) -> Any:
        """The object."""
        return orjson.loads(self.body)


@dataclass(frozen=True)
class Figures:
    """What the cache did for one tenant since the counters began (Redis may forget them)."""

    hits: int = 0
    misses: int = 0
    coalesced: int = 0
    stored: int = 0  #: answers written, in all
    stored_bytes: int = 0  #: of these, as they lie in Redis; what expired or was evicted is not taken off
    purges: int = 0


def packed(stored: Stored, tenant: UUID, stamp: bytes) -> bytes:
    """`stamp|tenant|j or z|body`: what Redis holds. The stamp is the generations at the time of asking."""
    small = len(stored.body) < COMPRESS_BYTES
    body = stored.body if small else zlib.compress(stored.body, 1)
    return b"|".join((stamp, tenant.hex.encode(), b"j" if small else b"z", body))


def unpacked(raw: bytes, tenant: UUID) -> Stored | None:
    """The answer in what Redis held; None when it is somebody else's, or not ours at all."""
    try:
        _, owner, form, body = raw.split(b"|", 3)
        if owner != tenant.hex.encode():
            return None
        return Stored(zlib.decompress(body) if form == b"z" else body)
    except (ValueError, zlib.error):
        return None
