"""The response cache in Redis: answers, generations, leases and counters, each step one round trip.

{tenant}:answer:<sha256>   stamp|tenant|form|body, with the entry's TTL
{tenant}:since[:<digest>]  a nonce that a purge changes; a stamp joins those of a key. One that Redis evicted is made
                           anew, which loses answers but never brings a purged one back
{tenant}:lease:<sha256>    who asks the engine now, so that other processes wait
{tenant}:figures           counters
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final, cast
from uuid import UUID

from redis import Redis

from services.responses.types import Figures, Key

LEASE_MS: Final = 3000  #: life of a lease; its holder renews it three times within

_LOOK: Final = """
local stamp = {}
for i = 4, #KEYS do
  local since = redis.call('GET', KEYS[i])
  if not since then since = ARGV[1]; redis.call('SET', KEYS[i], since) end
  stamp[#stamp + 1] = since
end
stamp = table.concat(stamp, '.')
if ARGV[4] ~= 'refreshes' then
  local found = redis.call('GET', KEYS[1])
  if found and string.sub(found, 1, #stamp + 1) == stamp .. '|' then
    redis.call('HINCRBY', KEYS[3], ARGV[4], 1)
    return {stamp, found, 0}
  end
  if not redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return {stamp, false, 0} end
end
redis.call('HINCRBY', KEYS[3], 'misses', 1)
return {stamp, false, 1}
"""

_LOOK_MANY: Final = """
local generations, stamp, told = tonumber(ARGV[2]), {}, {}
for i = 2, generations + 1 do
  local since = redis.call('GET', KEYS[i])
  if not since then since = ARGV[1]; redis.call('SET', KEYS[i], since) end
  stamp[#stamp + 1] = since
end
told[1] = table.concat(stamp, '.')
local prefix, hits = told[1] .. '|', 0
for i = generations + 2, #KEYS do
  local found = redis.call('GET', KEYS[i])
  if found and string.sub(found, 1, #prefix) == prefix then hits = hits + 1 else found = false end
  told[#told + 1] = found
end
redis.call('HINCRBY', KEYS[1], 'hits', hits)
redis.call('HINCRBY', KEYS[1], 'misses', #told - 1 - hits)
return told
"""

_RENEW: Final = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2])"

_RELEASE: Final = """
if ARGV[2] ~= '0' then redis.call('HINCRBY', KEYS[2], 'coalesced', ARGV[2]) end
return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1])
"""


@dataclass(frozen=True)
class Looked:
    """What a look at one key found: an answer, or whether it is ours to ask the engine (`lead`) or to wait."""

    stamp: bytes
    found: bytes | None
    lead: bool


def look(client: Redis, key: Key, *, token: str, counted: str) -> Looked:
    """Find an answer, else try to take the lease. A hit counts as `counted`; `refreshes` neither finds nor leases."""
    keys = [key.name, lease(key), figures_name(key.tenant), *key.generations]
    told = cast("Any", client.register_script(_LOOK)(keys, [token_hex(8), token, LEASE_MS, counted]))
    return Looked(told[0], told[1], bool(told[2]))


def look_many(client: Redis, keys: Sequence[Key]) -> tuple[bytes, list[bytes | None]]:
    """The stamp of these keys, which share tenant and weights, and what lies under each."""
    generations = keys[0].generations
    names = [figures_name(keys[0].tenant), *generations, *(key.name for key in keys)]
    told = cast("Any", client.register_script(_LOOK_MANY)(names, [token_hex(8), len(generations)]))
    return told[0], told[1:]


def put(client: Redis, tenant: UUID, entries: Mapping[str, bytes], *, ttl_s: int) -> None:
    """Write packed answers by name."""
    with client.pipeline(transaction=False) as pipe:
        for name, packed in entries.items():
            pipe.set(name, packed, ex=ttl_s)
        pipe.hincrby(figures_name(tenant), "stored", len(entries))
        pipe.hincrby(figures_name(tenant), "stored_bytes", sum(map(len, entries.values())))
        pipe.execute()


def renew(client: Redis, key: Key, *, token: str) -> None:
    """Let our lease live on; one that is lost stays lost."""
    client.register_script(_RENEW)([lease(key)], [token, LEASE_MS])


def release(client: Redis, key: Key, *, token: str, coalesced: int) -> None:
    """Give our lease up, and count those who waited for us in this process."""
    client.register_script(_RELEASE)([lease(key), figures_name(key.tenant)], [token, coalesced])


def purge(client: Redis, tenant: UUID, *, digest: str | None) -> None:
    """Make every answer of a tenant, or of one model, unfindable."""
    name = f"{{{tenant}}}:since" if digest is None else f"{{{tenant}}}:since:{digest}"
    with client.pipeline(transaction=False) as pipe:
        pipe.set(name, token_hex(8))
        pipe.hincrby(figures_name(tenant), "purges", 1)
        pipe.execute()


def figures(client: Redis, tenant: UUID) -> Figures:
    """A tenant's counters."""
    told = cast("dict[bytes, bytes]", client.hgetall(figures_name(tenant)))
    known = Figures.__dataclass_fields__
    return Figures(**{name.decode(): int(value) for name, value in told.items() if name.decode() in known})


def lease(key: Key) -> str:
    """Name of the lease on a key."""
    return f"{{{key.tenant}}}:lease:{key.sha256}"


def figures_name(tenant: UUID) -> str:
    """Name of a tenant's counters."""
    return f"{{{tenant}}}:figures"
