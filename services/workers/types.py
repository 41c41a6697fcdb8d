"""Values about workers and engines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from shared.contracts.jobs import Pool


@dataclass(frozen=True)
class Slots:
    """Jobs that a worker can hold in one pool."""

    free: int
    total: int


@dataclass(frozen=True)
class Gpu:
    """What the driver calls the first device of a host, and its memory in bytes (None: it does not say)."""

    model: str
    memory_bytes: int | None


@dataclass(frozen=True)
class Boot:
    """One start of one worker process, as it registers itself."""

    id: UUID
    host: str
    pid: int
    gpu_class: str
    pools: tuple[Pool, ...]
    devices: tuple[int, ...]
    versions: Mapping[str, str]
    slots: Mapping[Pool, Slots]
    gpu: Gpu | None = None


@dataclass(frozen=True)
class LoadedEngine:
    """An engine of a worker: a model on devices. `state` is `shared.contracts.engine.EngineState`'s value."""

    id: UUID
    worker_id: UUID
    model_digest: str
    kind: str
    address: str
    devices: tuple[int, ...]
    state: str
    max_in_flight: int
    in_flight: int
    pid: int
    error: Mapping[str, object] | None = None
    ready_at: datetime | None = None


@dataclass(frozen=True)
class WorkerSeen:
    """A worker as it was last seen; `live` is seen in the last 30 s and not stopped, by the database's clock."""

    id: UUID
    host: str
    pid: int
    gpu_class: str
    queues: tuple[str, ...]
    devices: tuple[int, ...]
    versions: Mapping[str, str]
    gpu: Gpu | None
    slots: Mapping[Pool, Slots]
    draining: bool
    live: bool
    started_at: datetime
    last_seen_at: datetime
    last_bell_at: datetime | None
    stopped_at: datetime | None
    engines: tuple[LoadedEngine, ...] = field(default=())


@dataclass(frozen=True)
class Capacity:
    """What the live workers of one queue can take."""

    workers: int = 0  #: live
    accepting: int = 0  #: of these, not draining
    ready: int = 0  #: of these, with a free slot
    free: int = 0  #: slots
