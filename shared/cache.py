"""The response cache: a Redis of its own, because a cache evicts (`allkeys-lru`) and a broker must not."""

import threading
from collections.abc import Callable
from typing import ClassVar, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.clock import monotonic
from shared.errors import Unavailable
from shared.telemetry import logger

PATIENT_S = 1.0  #: whoever must know waits so long: a readiness check, a purge
QUICK_S = 0.05  #: whoever can do without waits so long, and then not again for `RETRY_S`
RETRY_S = 1.0

T = TypeVar("T")
log = logger(__name__)


class CacheUnavailable(Unavailable):
    """The cache cannot be reached right now."""

    code: ClassVar[str] = "cache_unavailable"


class Cache:
    """The connections of one process. Thread-safe; connects when first used."""

    def __init__(self, url: str, *, quick_s: float = QUICK_S) -> None:
        self._patient = _client(url, PATIENT_S)
        self._quick = _client(url, quick_s)
        self._away_until = 0.0
        self._turn = threading.Lock()

    def ping(self) -> None:
        """Return when the cache answers.

        Raises:
            CacheUnavailable: it does not.
        """
        self.surely(lambda client: client.ping())

    def surely(self, work: Callable[[redis.Redis], T]) -> T:
        """What `work` returns.

        Raises:
            CacheUnavailable: the cache does not answer within `PATIENT_S`.
        """
        try:
            return work(self._patient)
        except redis.RedisError as error:
            raise CacheUnavailable from error

    def quickly(self, work: Callable[[redis.Redis], T], *, otherwise: T) -> T:
        """What `work` returns, or `otherwise` when the cache is away.

        One that is gone or frozen costs `quick_s` once; for `RETRY_S` after that nobody asks, then one caller tries.
        """
        if not self._try():
            return otherwise
        try:
            answer = work(self._quick)
        except redis.RedisError as error:
            self._lost(error)
            return otherwise
        if self._away_until:
            self._away_until = 0.0
            log.info("cache is back")
        return answer

    def close(self) -> None:
        """Close every pooled connection."""
        self._patient.close()
        self._quick.close()

    def _try(self) -> bool:
        if not self._away_until:
            return True
        with self._turn:
            if monotonic() < self._away_until:
                return False
            self._away_until = monotonic() + RETRY_S  # the others go on without, whatever comes of this try
            return True

    def _lost(self, error: redis.RedisError) -> None:
        if not self._away_until:
            log.warning("cache is away", extra={"error": type(error).__name__})
        self._away_until = monotonic() + RETRY_S


def _client(url: str, patience_s: float) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=patience_s,
        socket_timeout=patience_s,
        # A connection that was closed while it was idle is opened again; one that is silent is not asked twice.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        client_name="modelyard-cache",
    )
