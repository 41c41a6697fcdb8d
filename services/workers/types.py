"""Values about workers and engines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
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


FAILED = "failed"  #: an engine was given up; its row stays for a while, with the reason
BUSY = "busy"  #: ready, and answering


@dataclass(frozen=True)
class Figures:
    """What an engine did and held when it was last asked: the row's `stats`. Kept fresh every two seconds."""

    running: int = 0  #: sequences in the batch
    waiting: int = 0  #: sequences admitted, not in the batch yet
    kv_used: float = 0.0  #: share of the KV cache, 0 to 1
    tokens_generated: int = 0  #: since its start
    memory_bytes: int = 0  #: of the host (CPU) or of its devices (GPU), all ranks together
    restarts: int = 0  #: deaths of this model's engines since the worker opened it
    load_s: float | None = None  #: seconds from the start to ready
    gpu_utilisation: float | None = None  #: 0 to 1, the mean of its devices; None on a CPU
    adapter_errors: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  #: of those that did not load

    @property
    def in_flight(self) -> int:
        """Sequences that it holds."""
        return self.running + self.waiting


@dataclass(frozen=True)
class LoadedEngine:
    """An engine of a worker: a model on devices. `state` is `EngineState`'s value, or `FAILED`."""

    id: UUID
    worker_id: UUID
    model_digest: str
    kind: str
    address: str  #: `unix:/path`, or `http://host:port`
    devices: tuple[int, ...]
    state: str
    max_in_flight: int  #: what it admits in all: the lane's places and the headroom for interactive calls
    in_flight: int
    pid: int
    error: Mapping[str, object] | None = None
    ready_at: datetime | None = None
    tensor_parallel: int = 1
    modes: tuple[str, ...] = ("generate",)
    adapters: tuple[str, ...] = ()  #: digests of the LoRA adapters that it holds
    token: str | None = field(default=None, repr=False)
    figures: Figures = Figures()

    @property
    def condition(self) -> str:
        """The state as people see it: a ready engine that answers somebody is busy."""
        return BUSY if self.state == "ready" and self.in_flight else self.state


@dataclass(frozen=True)
class Measure:
    """What an engine of a model took the last time: seconds to load, bytes of one device's memory."""

    model_digest: str
    gpu_class: str
    kind: str
    tensor_parallel: int
    load_s: float
    memory_bytes: int


def figures(stored: Mapping[str, Any]) -> Figures:
    """The figures of a row."""
    known = Figures.__dataclass_fields__
    return Figures(**{name: value for name, value in stored.items() if name in known})


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
