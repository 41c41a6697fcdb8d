"""The engines of this worker: one for each model in use, started on demand, kept loaded, restarted when they die."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

from services.workers.types import LoadedEngine
from shared.clock import monotonic
from shared.contracts.engine import EngineConfig, EngineState
from shared.contracts.jobs import JobError, Pool
from shared.errors import ModelyardError
from shared.ids import new_id
from shared.settings import Settings
from shared.telemetry import logger
from workers.runtime.devices import Devices
from workers.runtime.engine import Engine, ServedModel
from workers.runtime.engine_process import EngineFailed, EngineFiles, EngineProcess
from workers.runtime.folders import Folders
from workers.runtime.lane import Lane
from workers.runtime.processes import Note
from workers.runtime.slots import CPU, SlotName
from workers.runtime.work import Work

DEATHS: Final = 3  # of one engine without an answer between them, after which it is given up
FIRST_WAIT_S: Final = 0.5  # before the second start in a row; then it doubles
KIND: Final = "transformers"

log = logger(__name__)


class Engines:
    """Who serves which model on this worker. Used on the runner's loop.

    `tell` is given an engine to record, or the id of one to forget; it must return at once.
    """

    def __init__(
        self,
        settings: Settings,
        folders: Folders,
        devices: Devices,
        *,
        tell: Callable[["LoadedEngine | UUID"], None],
        worker_id: UUID,
    ) -> None:
        self._settings = settings
        self._folders = folders
        self._devices = devices
        self._tell = tell
        self.worker_id = worker_id
        self._engines: dict[str, Engine] = {}
        self._turn = asyncio.Lock()

    def __iter__(self) -> Iterator[Engine]:
        return iter(list(self._engines.values()))

    @asynccontextmanager
    async def use(self, work: Work, model: ServedModel, *, devices: int) -> AsyncIterator[Engine]:
        """The engine of a model for as long as the block runs: it is not unloaded meanwhile.

        Who asked earlier is served earlier: a stream of jobs for one model cannot starve another model.
        """
        async with self._turn:
            engine = self._engines.get(model.digest)
            if engine is None:
                slots = await self._devices.take(Pool.SERVE, devices, vacate=self.vacate)
                engine = self._open(model, slots)
            engine.users.add(work)
        try:
            yield engine
        finally:
            engine.users.discard(work)
            engine.used_at = monotonic()
            self._devices.touch()

    def idle_slots(self) -> int:
        """Slots of engines that nobody uses."""
        return sum(len(engine.slots) for engine in self if not engine.users)

    async def vacate(self) -> bool:
        """Unload the engine that nobody has used for longest; False when all are in use."""
        idle = sorted((engine for engine in self if not engine.users), key=lambda engine: engine.used_at)
        if not idle:
            return False
        await self._unload(idle[0])
        return True

    async def adopt(self) -> None:
        """Take over the engines that the worker before us let go on purpose; end those that it did not."""
        for folder in list(self._folders.engines.iterdir()):
            note = Note.read(folder)
            if note is not None and note.worker.alive():
                continue  # of another worker on this host
            process = await EngineProcess.adopt(self._files(folder.name, "adopted"))
            if process is not None and self._settle(process, note.slots if note else ()):
                log.info("engine adopted", extra={"engine": folder.name, "pid": process.pid})
                continue
            if note is not None:
                note.process.kill_group()
            shutil.rmtree(folder, ignore_errors=True)

    async def stop(self) -> None:
        """Unload every engine."""
        await asyncio.gather(*(self._unload(engine) for engine in self))

    async def detach(self, *, grace_s: float) -> None:
        """Let every ready engine outlive this worker by `grace_s`; unload the others."""
        for engine in self:
            if engine.process is not None and await engine.process.detach(grace_s=grace_s):
                await self._dismiss(engine)
            else:
                await self._unload(engine)

    def report(self) -> None:
        """Record the state of every engine anew."""
        for engine in self:
            if engine.process is not None:
                self._record(engine, engine.process, EngineState.READY)

    def _open(self, model: ServedModel, slots: Sequence[SlotName], process: EngineProcess | None = None) -> Engine:
        lane = Lane(self._settings.engine_max_in_flight, devices=len(slots))
        engine = self._engines[model.digest] = Engine(model, slots, lane=lane)
        engine.keeper = asyncio.create_task(self._keep(engine, process))
        return engine

    async def _keep(self, engine: Engine, process: EngineProcess | None) -> None:
        """Start, watch and restart the engine's process until it is unloaded or given up."""
        try:
            while not engine.stopping:
                try:
                    error = await self._serve(engine, process or await self._start(engine))
                except EngineFailed as failure:
                    error = failure.error
                process = None
                if not self._comes_again(engine, error):
                    return
                await asyncio.sleep(FIRST_WAIT_S * 2.0**engine.deaths if engine.deaths > 1 else 0)
        except Exception as error:
            log.exception("engine keeper failed")
            engine.give_up(JobError(code="engine_failed", title=type(error).__name__, retryable=True))
        finally:
            del self._engines[engine.model.digest]
            self._devices.give_back(engine.slots)

    async def _start(self, engine: Engine) -> EngineProcess:
        """A process that admits requests. Raises EngineFailed."""
        try:
            path = await asyncio.to_thread(engine.model.fetch)
        except ModelyardError as error:
            told = JobError(code=error.code, title=error.message, retryable=error.retryable)
            raise EngineFailed(told) from error
        config = self._configure(engine, path)
        files = self._files(config.engine_id, engine.model.digest)
        process = EngineProcess.start(files, config, slots=engine.slots)
        self._record(engine, process, EngineState.STARTING)
        log.info("engine starting", extra={"engine": config.engine_id, "pid": process.pid})
        try:
            await process.ready(timeout_s=self._settings.engine_start_s)
        except BaseException:
            await process.kill()
            self._tell(process.id)
            raise
        return process

    async def _serve(self, engine: Engine, process: EngineProcess) -> JobError:
        """Let jobs ask this process until it ends; why it ended."""
        engine.up(process)
        self._record(engine, process, EngineState.READY)
        log.info("engine ready", extra={"engine": str(process.id), "pid": process.pid})
        await process.ended()
        engine.down()
        error = process.post_mortem()
        await process.kill()  # what is left of its group
        self._tell(process.id)
        return error

    def _comes_again(self, engine: Engine, error: JobError) -> bool:
        """Note a death; False when nobody needs the engine any more, or it dies again and again."""
        if engine.stopping:
            return False
        engine.deaths += 1
        log.error("engine died", extra={"model": engine.model.digest, "code": error.code, "detail": error.detail})
        self._regain(engine)
        if engine.deaths >= DEATHS or not error.retryable:
            engine.give_up(error)
            return False
        return bool(engine.users)

    def _regain(self, engine: Engine) -> None:
        """The lock that an adopted engine held is free: it becomes ours. The file names us already."""
        self._devices.slots.regain(engine.slots)
        self._devices.slots.acquire()

    async def _unload(self, engine: Engine) -> None:
        engine.stopping = True
        if engine.process is not None:
            await engine.process.stop()
            await asyncio.gather(engine.keeper, return_exceptions=True)  # type: ignore[arg-type]
        else:
            await self._dismiss(engine)

    @staticmethod
    async def _dismiss(engine: Engine) -> None:
        """End the keeper, and with it a process that is not ready yet."""
        engine.stopping = True
        assert engine.keeper is not None
        engine.keeper.cancel()
        await asyncio.gather(engine.keeper, return_exceptions=True)

    def _settle(self, process: EngineProcess, slots: Sequence[str]) -> bool:
        """Make an adopted process one of ours; False when it sits on slots that are not ours."""
        names = [name for name in self._devices.slots.names if str(name) in slots]
        if len(names) < len(slots):
            return False
        digest, path = process.config.models[-1], process.config.model_path
        self._devices.slots.lend(names)
        self._devices.occupy(names)
        self._open(ServedModel(digest, process.config.models[0], lambda: path), names, process)
        return True

    def _configure(self, engine: Engine, path: Path) -> EngineConfig:
        engine_id = new_id()
        return EngineConfig(
            engine_id=str(engine_id),
            model_path=path,
            models=tuple(dict.fromkeys((engine.model.name, engine.model.digest))),
            uds=self._folders.socket(engine_id),
            device="cpu" if self._settings.gpu_class == CPU else "cuda",
            max_in_flight=engine.lane.size,
            threads=self._settings.engine_threads or None,
            parent_pid=os.getpid(),
            detach_grace_s=self._settings.engine_handover_s,
            lock_fds=tuple(self._devices.slots.descriptors(engine.slots)),
        )

    def _files(self, engine_id: str, digest: str) -> EngineFiles:
        found = UUID(engine_id)
        log_name = f"engine-{digest[:12]}.log"  # one log a model: it is appended to, and capped
        return EngineFiles(self._folders.engine(found), self._folders.socket(found), self._folders.logs / log_name)

    def _record(self, engine: Engine, process: EngineProcess, state: EngineState) -> None:
        self._tell(
            LoadedEngine(
                id=process.id,
                worker_id=self.worker_id,
                model_digest=engine.model.digest,
                kind=KIND,
                address=str(process.config.uds),
                devices=tuple(slot.device for slot in engine.slots),
                state=state,
                max_in_flight=engine.lane.size,
                in_flight=engine.lane.in_flight,
                pid=process.pid,
            )
        )
