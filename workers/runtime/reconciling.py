"""Adapters are loaded before anybody asks: each ready engine gets those of its base that the catalog has.

What is wished for and who is first stands in `services.placement.ahead`. Looked at when an adapter comes or goes, when
an engine becomes ready (for the first time, again after a death, adopted after a restart), and every `POLL_S`.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from services.inference import service as inference
from services.inference.service import ServedModel as StoredModel
from services.placement import ahead
from services.placement.types import Wanted, Wish
from shared.clock import monotonic
from shared.contracts.jobs import JobError
from shared.contracts.serving import Mode
from shared.engine_client import EngineGone
from shared.errors import DatabaseUnavailable, EngineUnavailable, ModelyardError
from shared.settings import Settings
from shared.telemetry import logger
from workers.runtime.database import Transactions
from workers.runtime.engine import Engine
from workers.runtime.engine_process import EngineProcess
from workers.runtime.launch import kinds
from workers.runtime.launch.transformers import Transformers
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.served import ServedModel
from workers.runtime.sizing import Sizes

CHANNEL: Final = "adapters"  #: payload: the digest of a base whose adapters changed
POLL_S: Final = 5.0
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 300.0  # before an adapter that did not load is tried again; doubles between
UNUSED_S: Final = 30.0  # of an engine that has to start again: a chat's next turn does not find it gone
DIED: Final = JobError(code="engine_failed", title="The engine died while it loaded the adapter", retryable=True)

Key = tuple[str, str, str]  #: base, kind of engine, adapter

log = logger(__name__)


@dataclass
class _Failure:
    """An adapter that did not load. It outlives its engine: one that kills engines must not do so again and again."""

    count: int
    again_at: float


class Reconciler:
    """Keeps the adapters of this worker's engines as they are wished for. Used on the runner's loop."""

    def __init__(
        self,
        settings: Settings,
        engines: Iterable[Engine],
        *,
        transactions: Transactions,
        sizes: Sizes,
        served: Callable[[StoredModel], ServedModel],
        told: Callable[[Engine, EngineProcess], None],
    ) -> None:
        self._settings = settings
        self._engines = engines
        self._transactions = transactions
        self._sizes = sizes
        self._served = served
        self._told = told
        self._bell = asyncio.Event()
        self._looking = False
        self._working: dict[EngineProcess, asyncio.Task[None]] = {}
        self._failures: dict[Key, _Failure] = {}
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether it looks, works, or is about to."""
        return self._bell.is_set() or self._looking or bool(self._working)

    def ring(self, digest: str = "") -> None:
        """A base has other adapters; empty: one may have."""
        if not digest or any(engine.model.digest == digest for engine in self._engines):
            self._bell.set()

    def risen(self, engine: Engine) -> None:
        """A process admits requests, and has no adapters yet, or those that it had before our restart."""
        del engine
        self._bell.set()

    async def run(self) -> None:
        """Look, until cancelled."""
        while not self._closed:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._bell.wait()
            except TimeoutError:
                pass
            self._looking = True
            self._bell.clear()
            try:
                await self._look()
            finally:
                self._looking = False

    def close(self) -> None:
        """Load nothing more."""
        self._closed = True
        for task in self._working.values():
            task.cancel()

    async def _look(self) -> None:
        able = [engine for engine in self._engines if self._takes_adapters(engine)]
        if not able or self._closed:
            return
        loaded: dict[str, set[str]] = {engine.model.digest: set() for engine in able}
        for engine in able:
            loaded[engine.model.digest].update(engine.adapters.digests)
        try:
            found = await self._transactions.run(
                lambda session: ahead.wanted(session, loaded, limit=self._settings.engine_max_adapters)
            )
        except DatabaseUnavailable:
            return
        self._forget_unwished(found)
        for engine in able:
            self._begin(engine, found[engine.model.digest])

    def _takes_adapters(self, engine: Engine) -> bool:
        if engine.process is None or engine.leaving or Mode.GENERATE not in engine.modes:
            return False
        if engine.kind == Transformers.kind:
            return engine.size.ranks == 1
        try:
            return kinds.launcher(engine.kind, self._settings).adapters
        except EngineUnavailable:  # adopted from a worker with other settings
            return False

    def _forget_unwished(self, found: dict[str, Wanted]) -> None:
        wished = {(base, wish.digest) for base, wanted in found.items() for wish in wanted.wishes}
        for base, kind, digest in list(self._failures):
            if base in found and (base, digest) not in wished:
                del self._failures[base, kind, digest]

    def _begin(self, engine: Engine, wanted: Wanted) -> None:
        """Work on an engine beside the others; one that is worked on already is looked at again afterwards."""
        process = engine.process
        if process is None or self._closed:
            return None
        if process in self._working:
            return self._working[process].add_done_callback(lambda _: self._bell.set())
        task = asyncio.create_task(self._reconcile(engine, process, wanted))
        self._working[process] = task
        task.add_done_callback(lambda _: self._working.pop(process, None))
        return None

    async def _reconcile(self, engine: Engine, process: EngineProcess, wanted: Wanted) -> None:
        try:
            await self._drop(engine, process, wanted)
            for wish in wanted.wishes[: process.config.max_adapters]:
                if wish.digest in engine.adapters.digests or self._resting(engine, wish):
                    continue
                if engine.kind != Transformers.kind and wish.rank > process.config.lora_rank:
                    if not await self._renewed(engine, process, wish):
                        continue
                    return
                await self._load(engine, process, wish, wanted)
                if engine.process is not process or engine.leaving:
                    return
        except EngineGone:  # its keeper sees to that
            return
        except Exception:
            log.exception("adapters were not reconciled")

    async def _drop(self, engine: Engine, process: EngineProcess, wanted: Wanted) -> None:
        """Unload what no version has any more, once nobody uses it. Raises EngineGone."""
        for digest in [*engine.adapter_errors]:
            if digest not in {wish.digest for wish in wanted.wishes}:
                del engine.adapter_errors[digest]
        for digest in wanted.gone & set(engine.adapters.digests):
            if digest not in engine.adapters_used and not engine.adapters.busy(digest):
                await engine.adapters.drop(process, digest)

    async def _load(self, engine: Engine, process: EngineProcess, wish: Wish, wanted: Wanted) -> None:
        """Load one if there is room, and note it if it fails. Raises EngineGone."""
        began = monotonic()
        try:
            loaded = await self._try(engine, process, wish, kept={each.digest for each in wanted.wishes})
        except DatabaseUnavailable:
            return
        except EngineFailed as failure:
            self._failed(engine, process, wish, failure.error)
        except ModelyardError as error:
            told = JobError(code=error.code, title=error.message, retryable=error.retryable)
            self._failed(engine, process, wish, told)
        except EngineGone:
            self._failed(engine, process, wish, DIED)
            raise
        else:
            if loaded:
                self._succeeded(engine, process, wish)
                log.info(
                    "adapter is ready ahead", extra={"adapter": wish.digest, "took_s": round(monotonic() - began, 3)}
                )
            else:
                log.debug("no room for an adapter ahead", extra={"adapter": wish.digest})

    async def _try(self, engine: Engine, process: EngineProcess, wish: Wish, *, kept: Collection[str]) -> bool:
        """False when there is no room. Raises EngineFailed, EngineGone, UnknownModel, DatabaseUnavailable."""
        stored = await self._transactions.run(lambda session: inference.served(session, wish.tenant_id, wish.model_id))
        model = self._served(stored)
        assert model.adapter is not None
        return await engine.adapters.ahead(
            process,
            model.adapter,
            used=lambda: engine.adapters_used,
            kept=kept,
            size=self._sizes.adapter_bytes(model, engine.size),
        )

    async def _renewed(self, engine: Engine, process: EngineProcess, wish: Wish) -> bool:
        """Start an engine again that was started for smaller ranks; False while somebody uses it."""
        if monotonic() - engine.used_at > UNUSED_S and await engine.let_go():
            log.info("engine comes again for a larger rank", extra={"engine": str(process.id), "rank": wish.rank})
            engine.renewing = True
            self._told(engine, process)
            await process.stop()
            return True
        if wish.digest not in engine.adapter_errors:
            largest = process.config.lora_rank
            title = f"The engine was started for ranks up to {largest}, and starts again for {wish.rank} when it idles"
            engine.adapter_errors[wish.digest] = JobError(code="adapter_load_failed", title=title, retryable=True)
            self._told(engine, process)
        return False

    def _resting(self, engine: Engine, wish: Wish) -> bool:
        failure = self._failures.get(_key(engine, wish))
        return failure is not None and monotonic() < failure.again_at

    def _failed(self, engine: Engine, process: EngineProcess, wish: Wish, error: JobError) -> None:
        """Tell it once, and let it rest."""
        key = _key(engine, wish)
        count = self._failures[key].count + 1 if key in self._failures else 1
        wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (count - 1)) if error.retryable else LONGEST_WAIT_S
        self._failures[key] = _Failure(count, monotonic() + wait)
        if engine.adapter_errors.get(wish.digest) != error:
            engine.adapter_errors[wish.digest] = error
            about = {"adapter": wish.digest, "base": engine.model.digest, "code": error.code, "detail": error.detail}
            log.warning("adapter does not load", extra=about | {"title": error.title})
            if engine.process is process:
                self._told(engine, process)

    def _succeeded(self, engine: Engine, process: EngineProcess, wish: Wish) -> None:
        self._failures.pop(_key(engine, wish), None)
        if engine.adapter_errors.pop(wish.digest, None) is not None and engine.process is process:
            self._told(engine, process)


def _key(engine: Engine, wish: Wish) -> Key:
    return engine.model.digest, engine.kind, wish.digest
