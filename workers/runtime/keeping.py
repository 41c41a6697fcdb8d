"""Keeping one engine: find it devices, start its process, watch it, start it again, make it smaller, give it up."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.workers.hardware import GpuFigures, gpu_figures, utilisation
from shared.clock import monotonic
from shared.contracts.jobs import JobError, Pool
from shared.settings import Settings
from shared.telemetry import logger
from workers.runtime.devices import Devices, Residents
from workers.runtime.engine import Engine
from workers.runtime.engine_process import EngineProcess
from workers.runtime.measures import Measures
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.records import Records
from workers.runtime.sizing import HALVINGS, Sizes
from workers.runtime.slots import CPU
from workers.runtime.starting import Starter

DEATHS: Final = 3  # of one engine without an answer between them, after which it is given up
LOOK_S: Final = 2.0  # between two looks at an engine's figures
BUSY_LOOK_S: Final = 0.25  # while it runs lines of jobs: they give way to interactive calls, which figures tell of
FIRST_WAIT_S: Final = 0.5  # before the second start in a row; then it doubles

log = logger(__name__)


class Keeper:
    """Keeps the engines of this worker, each in a task of its own. Used on the runner's loop."""

    def __init__(
        self,
        settings: Settings,
        devices: Devices,
        *,
        starter: Starter,
        sizes: Sizes,
        records: Records,
        measures: Measures,
    ) -> None:
        self._settings = settings
        self._devices = devices
        self._starter = starter
        self._sizes = sizes
        self._records = records
        self._measures = measures
        self._gpus_at, self._gpus_seen = 0.0, list[GpuFigures]()
        self.starting = 0  #: engines that load their model now

        self.risen: Callable[[Engine], None] = lambda _: None  #: told of each process that admits requests

    async def keep(self, engine: Engine, *, residents: Residents, adopted: EngineProcess | None = None) -> None:
        """Start, watch and restart the engine's process until it is unloaded or given up."""
        process = adopted
        try:
            while not engine.stopping:
                try:
                    if not engine.slots:
                        await self._place(engine, residents)
                    error = await self._serve(engine, process or await self._start(engine))
                except EngineFailed as failure:
                    error = failure.error
                process = None
                if not await self._comes_again(engine, error):
                    return
        except Exception as error:
            log.exception("engine keeper failed")
            engine.give_up(JobError(code="engine_failed", title=type(error).__name__, retryable=True))
        finally:
            self._leave(engine)

    async def _place(self, engine: Engine, residents: Residents) -> None:
        size, has = engine.size, sum(name.serves(Pool.SERVE) for name in self._devices.slots.names)
        if size.slots > has:
            title = f"The model needs {size.slots} devices of one host, and this worker has {has}"
            raise EngineFailed(JobError(code="engine_unavailable", title=title, retryable=False))
        slots, granted = await self._devices.place(engine, size.need, size.slots, residents=residents)
        if granted > self._sizes.budget:
            self._devices.leave(engine, slots)
            raise EngineFailed(self._sizes.too_large(engine.model, size))
        engine.size = replace(size, granted=granted)
        engine.sit(slots)

    async def _start(self, engine: Engine) -> EngineProcess:
        """A process that admits requests. Raises EngineFailed."""
        self.starting += 1
        try:
            process = await self._starter.start(engine)
            self._records.starting(engine, process)
            try:
                engine.note(await process.ready(timeout_s=self._settings.engine_start_s))
            except BaseException:
                await process.kill()
                self._records.gone(process)
                raise
        finally:
            self.starting -= 1
        engine.load_s = round(monotonic() - process.started, 3)
        return process

    async def _serve(self, engine: Engine, process: EngineProcess) -> JobError:
        """Let jobs ask this process until it ends; why it ended."""
        engine.up(process, changed=lambda: self._records.serving(engine, process), room=_Beside(self._devices, engine))
        self._records.serving(engine, process)
        self.risen(engine)
        log.info("engine ready", extra={"engine": str(process.id), "pid": process.pid, "load_s": engine.load_s})

        async def look() -> None:
            was_idle = engine.noted_idle
            await engine.look(process)
            if self._settings.gpu_class != CPU:
                engine.gpu_utilisation = utilisation({slot.device for slot in engine.slots}, seen=self._gpus())
            self._records.figures(engine, process)
            if engine.noted_idle and not was_idle:
                self._devices.touch()

        def every_s() -> float:
            return BUSY_LOOK_S if engine.lane.in_flight else LOOK_S

        self._measure(engine)
        try:
            await process.watch(look, every_s=every_s, silent_s=self._settings.engine_silent_s)
            error = process.post_mortem()
        finally:
            self._measure(engine)
            engine.down()
            self._devices.shrink(engine, engine.slots, engine.size.granted)
        await process.kill()  # what is left of its group
        self._records.gone(process)
        return error

    def _gpus(self) -> Sequence[GpuFigures]:
        """The host's GPUs, read once in `LOOK_S` for all engines: 1 ms a device on the loop."""
        if monotonic() - self._gpus_at > LOOK_S:
            self._gpus_at, self._gpus_seen = monotonic(), gpu_figures()
        return self._gpus_seen

    def _measure(self, engine: Engine) -> None:
        if not engine.peak_bytes or engine.load_s is None:
            return  # it does not tell, or was adopted
        size = engine.size
        self._measures.keep(
            engine.model.digest,
            kind=engine.kind,
            ranks=size.ranks,
            load_s=engine.load_s,
            memory_bytes=engine.peak_bytes // size.slots,
        )

    async def _comes_again(self, engine: Engine, error: JobError) -> bool:
        """Note an end; False when nobody needs the engine any more, or it dies again and again."""
        if engine.stopping:
            return False
        self._regain(engine)
        if engine.yielding:
            self._devices.leave(engine, engine.stand())
            engine.yielding = False
            return engine.missed
        if engine.renewing:
            engine.renewing = False
            return True
        engine.deaths, engine.restarts = engine.deaths + 1, engine.restarts + 1
        about = {"model": engine.model.digest, "kind": engine.kind, "code": error.code, "detail": error.detail}
        log.error("engine died", extra=about)
        smaller = EngineFailed(error).out_of_memory and self._smaller(engine)
        if EngineFailed(error).out_of_memory and not smaller:
            error = self._sizes.too_large(engine.model, engine.size)
        if engine.deaths >= DEATHS + engine.size.halvings or not error.retryable:
            self._records.failed(engine, error)
            engine.give_up(error)
            return False
        if not engine.missed:
            return False
        if engine.deaths > 1 and not smaller:
            await asyncio.sleep(FIRST_WAIT_S * 2.0 ** (engine.deaths - 1))
        return True

    def _smaller(self, engine: Engine) -> bool:
        """Answer a lack of memory: half the batch, twice; then the next number of devices; False when none is left."""
        size = engine.size
        if size.halvings < HALVINGS and size.in_flight > 1:
            engine.resize(size.halved())
        elif wider := self._sizes.next_degree(engine.model, size, devices=len(self._devices.slots.names)):
            self._devices.leave(engine, engine.stand())
            engine.resize(replace(wider, halvings=size.halvings))
        else:
            return False
        now = engine.size
        log.warning(
            "engine comes again, smaller or wider",
            extra={"model": engine.model.digest, "in_flight": now.admitted, "ranks": now.ranks},
        )
        return True

    def _regain(self, engine: Engine) -> None:
        """The lock that an adopted engine held is free: it becomes ours. The file names us already."""
        self._devices.slots.regain(self._devices.alone(engine, engine.slots))
        self._devices.slots.acquire()

    def _leave(self, engine: Engine) -> None:
        self._regain(engine)
        self._devices.leave(engine, engine.slots)


@dataclass(frozen=True)
class _Beside:
    """The room beside an engine, on its slots."""

    devices: Devices
    engine: Engine

    def take(self, count: int, *, force: bool = False) -> bool:
        return self.devices.grow(self.engine, self.engine.slots, count, force=force)

    def give(self, count: int) -> None:
        self.devices.grow(self.engine, self.engine.slots, -count)
