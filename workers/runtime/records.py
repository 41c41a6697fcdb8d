"""What the platform is told of this worker's engines: their rows and figures."""

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

from services.workers.types import FAILED, Figures, LoadedEngine
from shared.clock import monotonic
from shared.contracts.engine import EngineState
from shared.contracts.jobs import JobError
from shared.ids import new_id
from workers.runtime.engine import Engine
from workers.runtime.engine_process import EngineProcess
from workers.runtime.presence import Told

FIGURES_S: Final = 1.9  # between two writes of an engine's figures
FAILED_KEPT_S: Final = 300.0  # how long a given-up engine is shown


class Records:
    """Says what became of engines. `tell` takes a row to write, an id to forget, or figures; it returns at once."""

    def __init__(self, *, tell: Callable[[Told], None], worker_id: UUID) -> None:
        self.worker_id = worker_id
        self._tell = tell
        self._figures: dict[UUID, tuple[Figures, float]] = {}  # as last told, and when
        self._failures: dict[str, UUID] = {}  # model digest → the row that tells of it

    def starting(self, engine: Engine, process: EngineProcess) -> None:
        """A process loads the model."""
        self._put(engine, process, EngineState.STARTING)

    def serving(self, engine: Engine, process: EngineProcess) -> None:
        """A process admits requests, or what it offers has changed."""
        self._put(engine, process, EngineState.DRAINING if engine.leaving else EngineState.READY)
        self._forget_failures(engine.model.digest)

    def figures(self, engine: Engine, process: EngineProcess) -> None:
        """A process was asked how it is."""
        now, (before, told_at) = figures(engine), self._figures.get(process.id, (None, 0.0))
        if now != before and monotonic() - told_at >= FIGURES_S:
            self._figures[process.id] = now, monotonic()
            self._tell((process.id, now))

    def gone(self, process: EngineProcess) -> None:
        """A process has ended."""
        self._figures.pop(process.id, None)
        self._tell(process.id)

    def failed(self, engine: Engine, error: JobError) -> None:
        """An engine was given up: told for a while, or until there is another one, so that people see why."""
        row_id, digest = new_id(), engine.model.digest
        self._forget_failures(digest)
        self._failures[digest] = row_id
        self._tell(self._row(engine, None, FAILED, id=row_id, error=error))
        asyncio.get_running_loop().call_later(FAILED_KEPT_S, self._forget, digest, row_id)

    def _forget(self, digest: str, row_id: UUID) -> None:
        if self._failures.get(digest) == row_id:
            self._forget_failures(digest)

    def _forget_failures(self, digest: str) -> None:
        if row_id := self._failures.pop(digest, None):
            self._tell(row_id)

    def _put(self, engine: Engine, process: EngineProcess, state: EngineState) -> None:
        self._tell(self._row(engine, process, state, id=process.id))

    def _row(
        self, engine: Engine, process: EngineProcess | None, state: str, *, id: UUID, error: JobError | None = None
    ) -> LoadedEngine:
        told = figures(engine)
        return LoadedEngine(
            id=id,
            worker_id=self.worker_id,
            model_digest=engine.model.digest,
            kind=engine.kind,
            address=process.address if process else "",
            devices=tuple(sorted({slot.device for slot in engine.slots})),
            state=state,
            max_in_flight=engine.size.admitted,
            in_flight=told.in_flight,
            pid=process.pid if process else 0,
            error=error.model_dump(mode="json", exclude_none=True) if error else None,
            tensor_parallel=engine.size.ranks,
            modes=tuple(engine.stats.modes if engine.stats else engine.modes),
            adapters=engine.adapters.digests,
            token=process.config.token if process else None,
            figures=told,
        )


def figures(engine: Engine) -> Figures:
    """An engine's newest figures, as its row keeps them."""
    stats = engine.stats
    errors = {
        digest: error.model_dump(mode="json", exclude_none=True) for digest, error in engine.adapter_errors.items()
    }
    if stats is None:
        return Figures(restarts=engine.restarts, load_s=engine.load_s, adapter_errors=errors)
    return Figures(
        running=stats.running,
        waiting=stats.waiting,
        kv_used=engine.kv_used,
        tokens_generated=stats.tokens_generated,
        memory_bytes=stats.memory_bytes,
        restarts=engine.restarts,
        load_s=engine.load_s,
        gpu_utilisation=engine.gpu_utilisation,
        adapter_errors=errors,
    )
