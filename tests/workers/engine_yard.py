"""A worker's engines without its runner: real processes of a scripted server, real locks, a real database."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from services.workers.types import LoadedEngine
from shared.contracts.jobs import Pool
from shared.contracts.serving import Serving
from shared.db.session import Database
from shared.ids import new_id
from shared.queues import GIB
from shared.settings import Settings
from tests.support.scripted_engine import COMMAND
from workers.runtime.database import Transactions
from workers.runtime.devices import Devices
from workers.runtime.engine import Engine
from workers.runtime.engines import Engines
from workers.runtime.folders import Folders
from workers.runtime.keeping import Keeper
from workers.runtime.measures import Measures
from workers.runtime.presence import Told
from workers.runtime.records import Records
from workers.runtime.served import ServedModel
from workers.runtime.sizing import Sizes
from workers.runtime.slots import Slots, slot_names
from workers.runtime.spares import Spares
from workers.runtime.starting import Starter
from workers.runtime.work import Work

#: prints what CUDA would and leaves, unless it is asked for so few sequences, or runs on so many ranks
GREEDY = """
import os, sys
fits, seats, ranks, wide = (int(given) for given in sys.argv[1:5])
if seats > fits and ranks < wide:
    print("torch.OutOfMemoryError: CUDA out of memory", file=sys.stderr)
    sys.exit(1)
os.execv(sys.argv[5], sys.argv[5:])
"""
SERVER = [*COMMAND, "--token", "{token}", "--metrics"]


def greedy(*, fits: int, wide: int = 99) -> list[str]:
    """A server that is out of memory when it shall admit more than `fits` sequences on fewer than `wide` ranks."""
    return [
        sys.executable, "-c", GREEDY, str(fits), "{max_in_flight}", "{tensor_parallel}", str(wide), *SERVER
    ]  # fmt: skip


COMMANDS = {"scripted": SERVER, "broken": [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)", "{uds}"]}


class Job:
    """As much of a job as an engine needs."""

    gpu_seconds = 0.0


@dataclass
class EngineYard:
    """The parts, and what was told of engines."""

    devices: Devices
    engines: Engines
    folder: Path
    told: list[Told] = field(default_factory=list)

    def model(self, name: str, *, gib: float = 0.0, kv_heads: int = 8, **serving: Any) -> ServedModel:
        """A model of `gib` GiB of weights; its digest is made of its name."""
        return ServedModel(
            digest=name * 8,
            name=name,
            fetch=lambda: self.folder,
            serving=Serving(**{"engine": "scripted", **serving}),
            weight_bytes=int(gib * GIB),
            kv_heads=kv_heads,
        )

    async def load(self, name: str, **wishes: Any) -> Engine:
        """An engine of such a model, ready, and used by nobody."""
        devices = wishes.pop("devices", 1)
        async with self.engines.use(object(), self.model(name, **wishes), devices=devices) as engine:
            await engine.ready()
        return engine

    async def say(self, engine: Engine, words: str, job: Work | None = None) -> str:
        """What the engine answers."""
        body = {"model": engine.model.digest, "prompt": words}
        reply = await engine.ask(job or cast("Work", Job()), "/v1/completions", body)
        assert reply.status == 200, reply.body
        return str(reply.json()["choices"][0]["text"])

    @property
    def loaded(self) -> set[str]:
        """Names of the models that have a process."""
        return {engine.model.name for engine in self.engines if engine.process is not None}

    @property
    def rows(self) -> dict[UUID, LoadedEngine]:
        """The engines' rows as they are now."""
        rows: dict[UUID, LoadedEngine] = {}
        for told in self.told:
            if isinstance(told, UUID):
                rows.pop(told, None)
            elif isinstance(told, LoadedEngine):
                rows[told.id] = told
        return rows

    @property
    def states(self) -> dict[str, str]:
        """Model digest's first letter → state."""
        return {row.model_digest[0]: row.state for row in self.rows.values()}


@asynccontextmanager
async def engine_yard(settings: Settings, database: Database, **changes: Any) -> AsyncIterator[EngineYard]:
    """Engines of a worker with these settings; all are ended."""
    settings = settings.model_copy(update={"engine_commands": COMMANDS, "engine_spares": 0} | changes)
    folders, told = Folders.of(settings), list[Told]()
    names = slot_names(settings.gpu_class, devices=settings.worker_devices, pools=list(Pool))
    slots = Slots(folders.slots, names)
    slots.acquire()
    sizes = Sizes(settings)
    measures = Measures(Transactions(database), gpu_class=settings.gpu_class)
    records = Records(tell=told.append, worker_id=new_id())
    devices = Devices(slots, budget=sizes.budget, patience_s=settings.engine_yield_s, changed=lambda: None)
    starter = Starter(settings, folders, devices, sizes=sizes, spares=Spares(settings, folders, slots))
    keeper = Keeper(settings, devices, starter=starter, sizes=sizes, records=records, measures=measures)
    engines = Engines(settings, folders, devices, keeper=keeper, sizes=sizes, records=records, measures=measures)
    tidying = asyncio.create_task(engines.tidy())
    try:
        yield EngineYard(devices, engines, folders.models, told)
    finally:
        tidying.cancel()
        await engines.stop()
        slots.close()


async def until(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Poll on the loop until it holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)
