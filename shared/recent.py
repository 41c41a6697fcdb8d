"""What was read from a database a moment ago, so that a busy path need not ask again."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy.orm import Session

from shared.clock import monotonic

T = TypeVar("T")

MOST = 1024  #: values kept for one database; then all are forgotten


class Recent(Generic[T]):
    """Values by key for `ttl_s` seconds, apart for each database of the process. Thread-safe.

    Only for what may be that much out of date. A value is shared by its readers: keep immutable ones.
    """

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._kept: WeakKeyDictionary[object, dict[Hashable, tuple[float, T]]] = WeakKeyDictionary()

    def get(self, session: Session, key: Hashable, read: Callable[[], T]) -> T:
        """The value of `key`, from `read()` when none was read in the last `ttl_s` seconds."""
        kept = self._kept.setdefault(session.get_bind(), {})
        now = monotonic()
        found = kept.get(key)
        if found is not None and found[0] > now:
            return found[1]
        value = read()
        if len(kept) >= MOST:
            kept.clear()
        kept[key] = (now + self._ttl_s, value)
        return value
