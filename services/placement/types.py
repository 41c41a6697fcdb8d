"""Values of placement."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from shared.contracts.serving import Mode


@dataclass(frozen=True)
class Replica:
    """An engine that admits requests. `adapters` are digests; `stats` is what the worker read about 2 s ago."""

    id: UUID
    worker_id: UUID
    host: str
    gpu_class: str
    digest: str
    kind: str
    address: str  #: `unix:/path` or `http://host:port`
    devices: int
    modes: tuple[str, ...]
    max_in_flight: int  #: sequences that the engine admits in all
    adapters: frozenset[str] = frozenset()
    token: str | None = field(default=None, repr=False)
    stats: Mapping[str, Any] = field(default_factory=dict)

    @property
    def held(self) -> int:
        """Sequences that it ran or kept waiting when it was last asked."""
        return int(self.stats.get("running", 0)) + int(self.stats.get("waiting", 0))


@dataclass(frozen=True)
class Demand:
    """A model version that callers wait for, and the queue whose workers may start an engine for it."""

    tenant_id: UUID
    model_id: UUID
    mode: Mode
    queue: str
    devices: int
    ahead: bool = False  #: nobody waits for it yet: engines in use stay where they are


@dataclass(frozen=True)
class Wish:
    """An adapter that engines of its base should have loaded before anybody asks for it."""

    tenant_id: UUID
    model_id: UUID
    digest: str
    rank: int


@dataclass(frozen=True)
class Wanted:
    """What engines of one base should hold: the newest first."""

    wishes: tuple[Wish, ...] = ()
    gone: frozenset[str] = frozenset()  #: digests, of those that were asked about, that no version has any more
