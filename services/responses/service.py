"""The response cache for threads: look, keep, purge. A cache that is away answers nothing and raises nothing.

Exact: equal requests of one tenant to the same weights (`keys`). The gateway goes through `flights`, which asks the
engine once for equal requests that come together; the lines of a job come through here, a page at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from services.responses import repository
from services.responses.repository import Looked
from services.responses.types import Figures, Key, Stored, packed, unpacked
from shared.cache import Cache
from shared.settings import Settings


@dataclass(frozen=True)
class Limits:
    """What may be kept: bytes of one entry, seconds of its life. A TTL of 0 switches the cache off."""

    entry_bytes: int
    ttl_s: int

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """The limits that the settings say."""
        return cls(settings.cache_entry_bytes, settings.cache_ttl_s)


@dataclass(frozen=True)
class Page:
    """What lay under several keys, and the stamp with which the others are to be kept (None: the cache is away)."""

    stamp: bytes | None
    found: Mapping[Key, Stored]


def look(cache: Cache, key: Key, *, token: str, counted: str = "hits") -> Looked | None:
    """What lies under a key, or who asks for it; None when the cache is away."""
    return cache.quickly(lambda client: repository.look(client, key, token=token, counted=counted), otherwise=None)


def look_many(cache: Cache, keys: Sequence[Key]) -> Page:
    """The answers under keys that share tenant and weights, in one round trip."""
    distinct = list(dict.fromkeys(keys))
    if not distinct:
        return Page(None, {})
    told = cache.quickly(lambda client: repository.look_many(client, distinct), otherwise=None)
    if told is None:
        return Page(None, {})
    stamp, raw = told
    opened = {key: unpacked(each, key.tenant) for key, each in zip(distinct, raw, strict=True) if each is not None}
    return Page(stamp, {key: stored for key, stored in opened.items() if stored is not None})


def put(cache: Cache, answers: Mapping[Key, Stored], *, stamp: bytes, limits: Limits, ttl_s: int | None = None) -> None:
    """Keep answers of one tenant. `stamp` is what the look before said: an answer begun before a purge stays purged.

    Those larger than `limits.entry_bytes` as stored are left out.
    """
    entries = {key.name: packed(stored, key.tenant, stamp) for key, stored in answers.items()}
    small = {name: raw for name, raw in entries.items() if len(raw) <= limits.entry_bytes}
    if small and limits.ttl_s:
        tenant, life_s = next(iter(answers)).tenant, ttl_s or limits.ttl_s
        cache.quickly(lambda client: repository.put(client, tenant, small, ttl_s=life_s), otherwise=None)


def renew(cache: Cache, key: Key, *, token: str) -> None:
    """Keep the lease on a key while the engine works."""
    cache.quickly(lambda client: repository.renew(client, key, token=token), otherwise=None)


def release(cache: Cache, key: Key, *, token: str, coalesced: int = 0) -> None:
    """Give the lease on a key up; `coalesced` calls of this process were answered meanwhile."""
    cache.quickly(lambda client: repository.release(client, key, token=token, coalesced=coalesced), otherwise=None)


def purge(cache: Cache, tenant_id: UUID, *, digest: str | None = None) -> None:
    """Forget every answer of a tenant; of one model or adapter when `digest` is given. Takes the same time for any.

    Answers that are under way now are not kept either.

    Raises:
        CacheUnavailable: nothing was purged.
    """
    cache.surely(lambda client: repository.purge(client, tenant_id, digest=digest))


def figures(cache: Cache, tenant_id: UUID) -> Figures:
    """What the cache did for a tenant.

    Raises:
        CacheUnavailable: it cannot be asked.
    """
    return cache.surely(lambda client: repository.figures(client, tenant_id))
