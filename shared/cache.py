"""The response cache: a Redis of its own, because a cache evicts (`allkeys-lru`) and a broker must not."""

from typing import ClassVar

import redis

from shared.errors import Unavailable

CONNECT_S, READ_S = 1.0, 1.0  # a cache that makes anybody wait longer than that is no use


class CacheUnavailable(Unavailable):
    """The cache cannot be reached right now."""

    code: ClassVar[str] = "cache_unavailable"


class Cache:
    """The connection pool of one process. Thread-safe; connects when first used."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_S,
            socket_timeout=READ_S,
            health_check_interval=30,
            client_name="modelyard-cache",
        )

    def ping(self) -> None:
        """Return when the cache answers.

        Raises:
            CacheUnavailable: it does not.
        """
        try:
            self._redis.ping()
        except redis.RedisError as error:
            raise CacheUnavailable from error

    def close(self) -> None:
        """Close every pooled connection."""
        self._redis.close()
