"""Workers and the GPU classes that they belong to."""

from typing import Literal, Self
from uuid import UUID

from pydantic import Field

from gateway.schemas.common import Moment, Out
from services.workers.types import LoadedEngine, Slots, WorkerSeen
from shared.contracts.jobs import Pool
from shared.queues import GpuClass, queue_name


class EngineOut(Out):
    """A model that a worker has loaded."""

    id: UUID
    kind: str
    model_digest: str
    devices: list[int]
    state: str
    in_flight: int
    max_in_flight: int
    ready_at: Moment | None

    @classmethod
    def of(cls, engine: LoadedEngine) -> Self:
        """What callers may know: its address and token are the platform's own affair."""
        return cls(
            id=engine.id,
            kind=engine.kind,
            model_digest=engine.model_digest,
            devices=list(engine.devices),
            state=engine.state,
            in_flight=engine.in_flight,
            max_in_flight=engine.max_in_flight,
            ready_at=engine.ready_at,
        )


class WorkerOut(Out):
    """One start of one worker process."""

    id: UUID
    object: Literal["worker"] = "worker"
    host: str
    pid: int
    gpu_class: str
    queues: list[str]
    devices: list[int]
    gpu_model: str | None
    gpu_memory_bytes: int | None
    versions: dict[str, str]
    slots: dict[Pool, Slots]
    live: bool = Field(description="seen within 30 s and not stopped")
    draining: bool
    engines: list[EngineOut]
    started_at: Moment
    last_seen_at: Moment
    last_bell_at: Moment | None
    stopped_at: Moment | None

    @classmethod
    def of(cls, worker: WorkerSeen) -> Self:
        """The resource of a worker."""
        return cls(
            id=worker.id,
            host=worker.host,
            pid=worker.pid,
            gpu_class=worker.gpu_class,
            queues=list(worker.queues),
            devices=list(worker.devices),
            gpu_model=worker.gpu.model if worker.gpu else None,
            gpu_memory_bytes=worker.gpu.memory_bytes if worker.gpu else None,
            versions=dict(worker.versions),
            slots=dict(worker.slots),
            live=worker.live,
            draining=worker.draining,
            engines=[EngineOut.of(each) for each in worker.engines],
            started_at=worker.started_at,
            last_seen_at=worker.last_seen_at,
            last_bell_at=worker.last_bell_at,
            stopped_at=worker.stopped_at,
        )


class GpuClassOut(Out):
    """A kind of device: what one of them holds, runs and costs, and who serves it."""

    id: str
    object: Literal["gpu_class"] = "gpu_class"
    memory_gib: float
    compute_capability: str | None
    dtypes: list[str]
    devices_per_host: int
    price_per_gpu_hour: float
    queues: list[str]
    live_workers: int

    @classmethod
    def of(cls, each: GpuClass, *, live_workers: int) -> Self:
        """The resource of a row of the class table."""
        return cls(
            id=each.name,
            memory_gib=each.memory_gib,
            compute_capability=each.compute_capability,
            dtypes=list(each.dtypes),
            devices_per_host=each.devices_per_host,
            price_per_gpu_hour=each.price_per_gpu_hour,
            queues=[queue_name(each.name, pool) for pool in Pool],
            live_workers=live_workers,
        )
