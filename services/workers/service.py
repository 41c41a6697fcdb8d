"""Workers as the platform sees them: who is alive, what each can take, which engines are loaded.

Nothing here commits.
"""

import os
import platform
import socket
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.orm import Session

from services.workers import engine_repository, repository
from services.workers.types import Boot, Capacity, Figures, Gpu, LoadedEngine, Measure, Slots, WorkerSeen, figures
from shared.contracts.jobs import Pool
from shared.db.models import Engine
from shared.ids import new_id
from shared.queues import gpu_class as known_class
from shared.queues import queue_name

HEARTBEAT_S = 10.0  #: period of a worker's sign of life
LIVE_S = 30.0  #: a worker seen within this is live
SILENT_S = 2 * LIVE_S  #: a worker not seen for this is written off
RECENT_S = 3600.0  #: workers that stopped within this are still listed
LISTED = 1000

_PACKAGES = ("modelyard", "celery", "torch", "transformers", "vllm")


def describe(
    gpu_class: str,
    *,
    pools: Sequence[Pool],
    devices: Sequence[int],
    slots: Mapping[Pool, Slots],
    gpu: Gpu | None = None,
) -> Boot:
    """This process as a worker that is about to register; `gpu` comes from `hardware.gpu()`.

    Raises:
        UnknownClass: the class table has no `gpu_class`.
    """
    return Boot(
        id=new_id(),
        host=socket.gethostname(),
        pid=os.getpid(),
        gpu_class=known_class(gpu_class).name,
        pools=tuple(pools),
        devices=tuple(devices),
        versions=_versions(),
        slots=dict(slots),
        gpu=gpu,
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # engines may live in an environment of their own
            continue
    return found


def register(session: Session, boot: Boot) -> None:
    """Write the worker's row. Repeating it changes nothing."""
    queues = [queue_name(boot.gpu_class, pool) for pool in boot.pools]
    repository.insert_worker(session, boot, queues=queues, slots=_stored(boot.slots))


def heartbeat(
    session: Session,
    worker_id: UUID,
    *,
    slots: Mapping[Pool, Slots],
    draining: bool = False,
    bell_age_s: float | None = None,
) -> bool:
    """Say that the worker lives: every `HEARTBEAT_S`, and at once when its last slot goes or its first one frees.

    `bell_age_s` is the time since the last bell, None when there was none. Returns False when the worker has
    been written off: it registers as a new boot.
    """
    stored = orjson.dumps(_stored(slots)).decode()
    return repository.beat(session, worker_id, slots=stored, draining=draining, bell_age_s=bell_age_s)


def stop(session: Session, worker_id: UUID) -> None:
    """The worker has ended, and its engines with it."""
    repository.stop(session, worker_id)


def stop_silent(session: Session) -> list[UUID]:
    """Write off the workers that were not seen for `SILENT_S`; their jobs are the reaper's affair."""
    return repository.stop_silent(session, silent_s=SILENT_S)


def workers(session: Session) -> list[WorkerSeen]:
    """Workers that run or stopped in the last hour, running ones first; each with its engines."""
    rows = repository.seen(session, live_s=LIVE_S, recent_s=RECENT_S, limit=LISTED)
    loaded = engines(session)
    return [_seen(row, [e for e in loaded if e.worker_id == row.id]) for row in rows]


def live_queues(session: Session) -> frozenset[str]:
    """Queues that a live worker accepts work for."""
    return repository.live_queues(session, live_s=LIVE_S)


def capacity(session: Session, queues: Sequence[str]) -> dict[str, Capacity]:
    """What the live workers of each of `queues` can take, by their last heartbeat."""
    found = repository.capacity(session, queues, live_s=LIVE_S)
    return {queue: found.get(queue, Capacity()) for queue in queues}


def widest(session: Session, queue: str) -> int:
    """The most devices that one job of a queue can have, by the live workers' last heartbeats."""
    return repository.widest(session, queue, live_s=LIVE_S)


def control_due(session: Session, *, limit: int) -> int:
    """What the courier could do now: control tasks and webhook deliveries, each counted up to `limit`."""
    return repository.control_due(session, limit=limit)


def put_engine(session: Session, engine: LoadedEngine) -> None:
    """Record an engine, or its new state. `ready_at` is the database's affair.

    Channel `engines` names the model when its engines' states, adapters or modes changed.
    """
    engine_repository.put(session, engine)


def note_figures(session: Session, noted: Sequence[tuple[UUID, Figures]]) -> None:
    """Record the newest figures of engines."""
    engine_repository.note(session, noted)


def remove_engine(session: Session, engine_id: UUID) -> None:
    """Forget an engine that was unloaded or died."""
    engine_repository.remove(session, engine_id)


def engines(session: Session, *, model_digest: str | None = None, worker_id: UUID | None = None) -> list[LoadedEngine]:
    """Engines of live workers, of one model or one worker when asked."""
    rows = engine_repository.engines(session, live_s=LIVE_S, model_digest=model_digest, worker_id=worker_id)
    return [_loaded(row) for row in rows]


def remember(session: Session, measure: Measure) -> None:
    """Keep what an engine took to load, and held."""
    engine_repository.remember(session, measure)


def measured(session: Session, model_digest: str, *, gpu_class: str, kind: str, tensor_parallel: int) -> Measure | None:
    """What an engine of this model took the last time; None when there was none."""
    row = engine_repository.measure(
        session, model_digest, gpu_class=gpu_class, kind=kind, tensor_parallel=tensor_parallel
    )
    return (
        None if row is None else Measure(model_digest, gpu_class, kind, tensor_parallel, row.load_s, row.memory_bytes)
    )


def _stored(slots: Mapping[Pool, Slots]) -> dict[str, dict[str, int]]:
    return {pool.value: {"free": each.free, "total": each.total} for pool, each in slots.items()}


def _loaded(row: Engine) -> LoadedEngine:
    return LoadedEngine(
        id=row.id,
        worker_id=row.worker_id,
        model_digest=row.model_digest,
        kind=row.kind,
        address=row.address,
        devices=tuple(row.devices),
        state=row.state,
        max_in_flight=row.max_in_flight,
        in_flight=row.in_flight,
        pid=row.pid,
        error=row.error,
        ready_at=row.ready_at,
        tensor_parallel=row.tensor_parallel,
        modes=tuple(row.modes),
        adapters=tuple(row.adapters),
        token=row.token,
        figures=figures(row.stats),
    )


def _seen(row: Any, loaded: Iterable[LoadedEngine]) -> WorkerSeen:
    return WorkerSeen(
        id=row.id,
        host=row.host,
        pid=row.pid,
        gpu_class=row.gpu_class,
        queues=tuple(row.queues),
        devices=tuple(row.devices),
        versions=row.versions,
        gpu=Gpu(row.gpu_model, row.gpu_memory_bytes) if row.gpu_model else None,
        slots={Pool(pool): Slots(each["free"], each["total"]) for pool, each in row.slots.items()},
        draining=row.draining,
        live=row.live,
        started_at=row.started_at,
        last_seen_at=row.last_seen_at,
        last_bell_at=row.last_bell_at,
        stopped_at=row.stopped_at,
        engines=tuple(loaded),
    )
