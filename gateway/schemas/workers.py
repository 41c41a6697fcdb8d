"""Workers and the GPU classes that they belong to."""

from typing import Any, Literal, Self
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
    tensor_parallel: int
    modes: list[str] = Field(description="generate, embed")
    adapters: list[str] = Field(description="digests of the LoRA adapters that it holds")
    state: str = Field(
        description="starting, ready, busy (ready and answering), draining, failed (given up: see error)"
    )
    in_flight: int = Field(description="sequences that it holds, running or waiting")
    max_in_flight: int
    waiting: int = Field(description="of those in flight, the ones that are not in the batch yet")
    kv_used: float = Field(description="share of the KV cache in use, 0 to 1")
    tokens_generated: int = Field(description="since its start")
    memory_bytes: int = Field(description="of the host or of its devices; 0 while it starts")
    restarts: int = Field(description="deaths since the worker opened it")
    load_s: float | None = Field(description="seconds from its start to ready")
    gpu_utilisation: float | None
    pid: int
    error: dict[str, Any] | None = Field(description="why it was given up; shown for some minutes")
    ready_at: Moment | None

    @classmethod
    def of(cls, engine: LoadedEngine) -> Self:
        """What callers may know: its address and token are the platform's own affair."""
        return cls(
            id=engine.id,
            kind=engine.kind,
            model_digest=engine.model_digest,
            devices=list(engine.devices),
            tensor_parallel=engine.tensor_parallel,
            modes=list(engine.modes),
            adapters=list(engine.adapters),
            state=engine.condition,
            in_flight=engine.in_flight,
            max_in_flight=engine.max_in_flight,
            waiting=engine.figures.waiting,
            kv_used=engine.figures.kv_used,
            tokens_generated=engine.figures.tokens_generated,
            memory_bytes=engine.figures.memory_bytes,
            restarts=engine.figures.restarts,
            load_s=engine.figures.load_s,
            gpu_utilisation=engine.figures.gpu_utilisation,
            pid=engine.pid,
            error=dict(engine.error) if engine.error else None,
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
