"""The engines of this worker: one for each model in use, started on demand, sharing its devices' memory."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Collection, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from services.workers.types import Measure
from shared.clock import monotonic
from shared.contracts.engine import EngineStats
from shared.contracts.jobs import JobError
from shared.contracts.serving import Mode
from shared.errors import EngineUnavailable
from shared.settings import Settings
from shared.telemetry import logger
from workers.runtime.devices import Devices
from workers.runtime.engine import Engine
from workers.runtime.engine_process import EngineProcess
from workers.runtime.folders import Folders
from workers.runtime.keeping import Keeper
from workers.runtime.launch import kinds
from workers.runtime.measures import Measures
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.processes import Note
from workers.runtime.records import Records
from workers.runtime.served import ServedModel
from workers.runtime.sizing import Size, Sizes
from workers.runtime.slots import SlotName

IDLE_LOOK_S: Final = 1.0
LEAVING_S: Final = 60.0  # what requests that run get when their engine has to leave its devices

Key = tuple[str, str, tuple[Mode, ...]]  #: model digest, kind of engine, what one process does

log = logger(__name__)


class Engines:
    """Who serves which model on this worker. Used on the runner's loop."""

    def __init__(
        self,
        settings: Settings,
        folders: Folders,
        devices: Devices,
        *,
        keeper: Keeper,
        sizes: Sizes,
        records: Records,
        measures: Measures,
    ) -> None:
        self._settings = settings
        self._folders = folders
        self._devices = devices
        self._keeper = keeper
        self._sizes = sizes
        self._records = records
        self._measures = measures
        self._engines: dict[Key, Engine] = {}
        self._turn = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Engine]:
        return iter(list(self._engines.values()))

    @asynccontextmanager
    async def use(
        self, user: Hashable, model: ServedModel, *, devices: int, mode: Mode = Mode.GENERATE
    ) -> AsyncIterator[Engine]:
        """The engine of a model for as long as the block runs: it is not unloaded for being idle meanwhile.

        Who asked earlier is served earlier: a stream of jobs for one model cannot starve another model.

        Raises:
            EngineFailed: it does not fit this worker, or this worker has no such kind of engine.
        """
        async with self._turn:
            engine = await self._engine(model, devices=devices, mode=mode)
            engine.users[user] = model.adapter
            try:
                await engine.placed()
            except BaseException:
                self._done(engine, user)
                raise
        try:
            yield engine
        finally:
            self._done(engine, user)

    async def vacate(self, names: Collection[SlotName]) -> bool:
        """Unload the idle engine on these slots that nobody has used for longest; False when there is none."""
        idle = [engine for engine in self._on(names) if engine.idle]
        for engine in sorted(idle, key=lambda engine: engine.used_at):
            if await engine.let_go():
                await self._unload(engine)
                return True
        return False

    async def press(self, names: Collection[SlotName]) -> bool:
        """Have the engine that is wanted least leave these slots: it answers what it has, and comes back later."""
        if any(engine.leaving and set(engine.slots) & set(names) for engine in self):
            return True  # one is on its way
        engine = min(self._on(names), key=lambda engine: engine.demand, default=None)
        if engine is None or engine.process is None:
            return False
        log.info("engine leaves its devices to others", extra={"model": engine.model.digest})
        engine.yielding = True
        self._records.serving(engine, engine.process)
        leaving = asyncio.create_task(engine.leave(within_s=LEAVING_S))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        return True

    def _on(self, names: Collection[SlotName]) -> list[Engine]:
        """The engines on these slots that may be sent away."""
        return [
            engine
            for engine in self
            if set(engine.slots) & set(names) and not (engine.model.serving.pinned or engine.leaving)
        ]

    async def measured(self, engine: Engine) -> Measure | None:
        """What an engine like this one took the last time."""
        return await self._measures.recall(engine.model.digest, kind=engine.kind, ranks=engine.size.ranks)

    async def drop(self, digest: str) -> None:
        """Unload the engines of a model that was never registered, and never will be."""
        for engine in self:
            if engine.model.digest == digest and not engine.users:
                await self._unload(engine)

    async def tidy(self) -> None:
        """Unload engines that nobody has used for their idle time; for ever."""
        while True:
            await asyncio.sleep(IDLE_LOOK_S)
            for engine in self:
                limit = engine.model.serving.idle_unload_s or self._settings.engine_idle_s
                due = limit and engine.process is not None and engine.idle and not engine.model.serving.pinned
                if due and monotonic() - engine.used_at > limit and await engine.let_go():
                    log.info("engine idle", extra={"model": engine.model.digest})
                    await self._unload(engine)

    async def adopt(self) -> None:
        """Take over the engines that the worker before us let go on purpose; end those that it did not."""
        for folder in list(self._folders.engines.iterdir()):
            note = Note.read(folder)
            if note is not None and note.worker.alive():
                continue  # of another worker on this host
            files = self._folders.engine_files(folder.name, self._folders.logs / "engine-adopted.log")
            found = await EngineProcess.adopt(files)
            if found is not None and note is not None and self._settle(*found, note.slots):
                log.info("engine adopted", extra={"engine": folder.name, "pid": found[0].pid})
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
                self._records.serving(engine, engine.process)

    async def _engine(self, model: ServedModel, *, devices: int, mode: Mode) -> Engine:
        kind = kinds.choose(model.serving.engine, self._settings)
        key = (model.digest, kind, self._modes(kind, mode))
        engine = self._engines.get(key)
        if engine is None or engine.stopping:
            ranks = self._sizes.of(model, devices=devices).ranks
            measure = await self._measures.recall(model.digest, kind=kind, ranks=ranks)
            size = self._sizes.of(model, devices=devices, measure=measure)
            return self._open(key, replace(model, adapter=None), size)
        engine.serve(replace(model, adapter=None))  # an adopted engine knows little, and serving options change
        engine.size = replace(engine.size, adapter=self._sizes.adapter_bytes(model, engine.size))
        return engine

    def _modes(self, kind: str, mode: Mode) -> tuple[Mode, ...]:
        try:
            together = kinds.launcher(kind, self._settings).modes
        except EngineUnavailable as error:
            told = JobError(code=error.code, title=error.message, retryable=error.retryable)
            raise EngineFailed(told) from error
        return together if mode in together else (mode,)

    def _open(
        self,
        key: Key,
        model: ServedModel,
        size: Size,
        *,
        slots: Sequence[SlotName] = (),
        process: EngineProcess | None = None,
    ) -> Engine:
        engine = Engine(model, slots, kind=key[1], modes=key[2], size=size)
        self._engines[key] = engine
        engine.keeper = asyncio.create_task(self._keep(key, engine, process))
        return engine

    async def _keep(self, key: Key, engine: Engine, process: EngineProcess | None) -> None:
        try:
            await self._keeper.keep(engine, residents=self, adopted=process)
        finally:
            if self._engines.get(key) is engine:
                del self._engines[key]

    def _done(self, engine: Engine, user: Hashable) -> None:
        engine.users.pop(user, None)
        engine.used_at = monotonic()
        if not engine.users and not engine.slots and engine.keeper is not None:
            engine.stopping = True  # it waited for devices, and nobody waits for it
            engine.keeper.cancel()
        self._devices.touch()

    async def _unload(self, engine: Engine) -> None:
        engine.stopping = True
        if engine.process is not None:
            self._records.serving(engine, engine.process)  # gateways ask it nothing more
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

    def _settle(self, process: EngineProcess, stats: EngineStats, slots: Sequence[str]) -> bool:
        """Make an adopted process one of ours; False when it sits on slots that are not ours."""
        names = [name for name in self._devices.slots.names if str(name) in slots]
        if len(names) < len(slots):
            return False
        config = process.config
        model = ServedModel(config.models[-1], config.models[0], lambda: config.model_path, serving=process.serving)
        size = self._sizes.adopted(config, stats, slots=len(names))
        self._devices.slots.lend(names)
        key = (model.digest, process.kind, self._adopted_modes(process.kind, stats))
        engine = self._open(key, model, size, slots=names, process=process)
        self._devices.occupy(engine, names, size.granted)
        engine.note(stats)
        return True

    def _adopted_modes(self, kind: str, stats: EngineStats) -> tuple[Mode, ...]:
        try:
            return self._modes(kind, stats.modes[0])
        except EngineFailed:
            return stats.modes
