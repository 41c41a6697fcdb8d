"""The LoRA adapters of one engine process: loaded ahead or when a request needs one, unloaded to make room."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from shared.clock import monotonic
from shared.contracts.engine import EngineConfig, EngineStats, LoadAdapter, UnloadAdapter
from shared.contracts.jobs import JobError
from shared.engine_client import EngineClient, Reply
from shared.errors import ModelyardError
from shared.telemetry import logger
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.served import Adapter

LOAD: Final = "/v1/load_lora_adapter"
UNLOAD: Final = "/v1/unload_lora_adapter"
ALREADY: Final = b"has already been loaded"  # vLLM's words, and our own engine's
#: one that answered so lately is in use: an engine is asked every 2 s, and a gateway's call is under way unseen
LATELY_S: Final = 10.0

Used = Callable[[], Collection[str]]

log = logger(__name__)


class Process(Protocol):
    """What this needs of an engine process."""

    @property
    def client(self) -> EngineClient:
        """Who asks it."""
        ...

    @property
    def config(self) -> EngineConfig:
        """What it was started with."""
        ...


class Room(Protocol):
    """The memory of an engine's devices, as far as adapters take it."""

    def take(self, count: int, *, force: bool = False) -> bool:
        """Note `count` bytes more of each device; False when there are not so many, unless `force`."""
        ...

    def give(self, count: int) -> None:
        """Note so many bytes less."""
        ...


class Endless:
    """Room that nobody counts."""

    def take(self, count: int, *, force: bool = False) -> bool:
        """See `Room.take`."""
        del count, force
        return True

    def give(self, count: int) -> None:
        """See `Room.give`."""


@dataclass
class _Loaded:
    bytes: int  #: of memory, as estimated
    used_at: float  #: when it was last asked for here: jobs and demands alone


class Adapters:
    """What one process has loaded, by digest."""

    def __init__(self, *, changed: Callable[[], None] = lambda: None, room: Room | None = None) -> None:
        self._changed = changed
        self._room = room or Endless()
        self._loaded: dict[str, _Loaded] = {}
        self._sent_away: set[str] = set()  # made room for others: nobody makes room for them unless they are asked for
        self._answered: Mapping[str, float] = {}  # seconds ago, by the engine's own figures of `_noted_at`
        self._noted_at = monotonic()
        self._turn = asyncio.Lock()

    @property
    def digests(self) -> tuple[str, ...]:
        """Those that requests may name."""
        return tuple(sorted(self._loaded))

    def read(self, stats: EngineStats) -> None:
        """Learn what an adopted process has."""
        self._loaded = {digest: _Loaded(0, monotonic()) for digest in stats.adapters}
        self.note(stats)

    def note(self, stats: EngineStats) -> None:
        """The engine's figures tell whom gateways asked."""
        self._answered, self._noted_at = stats.adapters_idle_s, monotonic()

    def busy(self, digest: str) -> bool:
        """Whether it answers now, or did a moment ago."""
        return self._answered.get(digest, LATELY_S) < LATELY_S

    async def ensure(self, process: Process, adapter: Adapter, *, used: Used, size: int = 0) -> None:
        """Have `adapter` loaded for somebody who asks for it now.

        The least recently used one makes room: never one in `used`, and one that gateways ask only where all are busy.

        Args:
            process: the engine.
            adapter: what to load.
            used: tells the digests that jobs and demands hold; asked when somebody has to go.
            size: bytes of memory that it takes.

        Raises:
            EngineFailed: its files cannot be had, the engine refuses it, or every other one is in use.
            EngineGone: the process died.
        """
        if adapter.digest not in self._loaded:
            path = await _fetched(adapter)  # before its turn: a slow store keeps nobody else waiting
            async with self._turn:
                if adapter.digest not in self._loaded:
                    await self._load_now(process, adapter, path, used=used, size=size)
        self._loaded[adapter.digest].used_at = monotonic()

    async def ahead(
        self, process: Process, adapter: Adapter, *, used: Used, kept: Collection[str], size: int = 0
    ) -> bool:
        """Load `adapter`, which nobody asks for yet; False when there is no room for it.

        Room is free memory, and a place that is free, or of one that is neither in `used`, nor in `kept`, nor busy.
        One that made room for another takes a free place alone: two that are asked for in turn would chase each other.

        Raises:
            EngineFailed, EngineGone: as `ensure`.
        """
        path = await _fetched(adapter)
        async with self._turn:
            if adapter.digest in self._loaded:
                return True
            victims = [each for each in self._oldest({*used(), *kept}) if not self.busy(each)]
            able = victims[:1] if self._full(process) and adapter.digest not in self._sent_away else []
            if not await self._made_room(process, able, size=size):
                return False
            await self._load(process, adapter, path, size=size)
            return True

    async def drop(self, process: Process, digest: str) -> None:
        """Unload one. Raises EngineGone."""
        async with self._turn:
            if digest in self._loaded:
                await self._unload(process, digest)

    async def _load_now(self, process: Process, adapter: Adapter, path: str, *, used: Used, size: int) -> None:
        victims = sorted(self._oldest(used()), key=self.busy)  # idle ones first; sorting keeps their order
        if not await self._made_room(process, victims, size=size):
            if self._full(process):
                title = f"All {len(self._loaded)} adapters that the engine holds are in use"
                raise EngineFailed(JobError(code="engine_unavailable", title=title, retryable=True))
            self._room.take(size, force=True)  # an estimate refuses nobody who asks: the engine says if it is too much
        await self._load(process, adapter, path, size=size)

    async def _made_room(self, process: Process, victims: list[str], *, size: int) -> bool:
        """Unload victims until one more fits, whose bytes are taken then; False when it never does."""
        while self._full(process) or not self._room.take(size):
            if not victims:
                return False
            victim = victims.pop(0)
            await self._unload(process, victim)
            self._sent_away.add(victim)
        return True

    def _full(self, process: Process) -> bool:
        return len(self._loaded) >= max(1, process.config.max_adapters)

    async def _load(self, process: Process, adapter: Adapter, path: str, *, size: int) -> None:
        """Load what there is room for. Raises EngineFailed, EngineGone."""
        try:
            asked = LoadAdapter(lora_name=adapter.digest, lora_path=path)
            reply = await process.client.post(LOAD, asked.model_dump())
            if reply.status != 200 and ALREADY not in reply.body:  # a caller who gave up may have asked for it
                raise EngineFailed(_refused(reply))
        except BaseException:
            self._room.give(size)
            raise
        self._loaded[adapter.digest] = _Loaded(size, monotonic())
        self._sent_away.discard(adapter.digest)
        self._changed()
        log.info("adapter loaded", extra={"adapter": adapter.digest, "engine": process.config.engine_id})

    async def _unload(self, process: Process, digest: str) -> None:
        """Told first, then done: calls that are under way end, and nobody sends another one. Raises EngineGone."""
        gone = self._loaded.pop(digest)
        self._changed()
        await process.client.post(UNLOAD, UnloadAdapter(lora_name=digest).model_dump())
        self._room.give(gone.bytes)
        log.info("adapter unloaded", extra={"adapter": digest, "engine": process.config.engine_id})

    def _oldest(self, used: Collection[str]) -> list[str]:
        """Those that are not in `used`, the longest unused first."""
        return sorted((digest for digest in self._loaded if digest not in used), key=self._used_at)

    def _used_at(self, digest: str) -> float:
        answered = self._answered.get(digest)
        asked = self._loaded[digest].used_at
        return asked if answered is None else max(asked, self._noted_at - answered)


async def _fetched(adapter: Adapter) -> str:
    """Its folder on this host. Raises EngineFailed."""
    try:
        return str(await asyncio.to_thread(adapter.fetch))
    except ModelyardError as error:
        raise EngineFailed(JobError(code=error.code, title=error.message, retryable=error.retryable)) from error
    except OSError as error:
        title = f"The adapter's files cannot be written: {error.strerror}"
        raise EngineFailed(JobError(code="adapter_load_failed", title=title, retryable=True)) from error


def _refused(reply: Reply) -> JobError:
    detail = reply.body.decode(errors="replace")[:500]
    return JobError(
        code="adapter_load_failed",
        title="The engine could not load the adapter",
        detail=f"status {reply.status}: {detail}",
        retryable=reply.status >= 500,
    )
