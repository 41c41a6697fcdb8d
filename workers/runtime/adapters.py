"""The LoRA adapters of one engine process: loaded when a request needs one, the least recently used unloaded."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Final, Protocol

from shared.contracts.engine import EngineConfig, EngineStats, LoadAdapter, UnloadAdapter
from shared.contracts.jobs import JobError
from shared.engine_client import EngineClient, Reply
from shared.errors import ModelyardError
from shared.telemetry import logger
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.served import Adapter

LOAD: Final = "/v1/load_lora_adapter"
UNLOAD: Final = "/v1/unload_lora_adapter"

log = logger(__name__)


class Process(Protocol):
    """What this needs of an engine process."""

    client: EngineClient
    config: EngineConfig


class Adapters:
    """What one process has loaded, by digest, the most recently used last."""

    def __init__(self, *, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._turn = asyncio.Lock()

    @property
    def digests(self) -> tuple[str, ...]:
        """Those that requests may name."""
        return tuple(sorted(self._loaded))

    def read(self, stats: EngineStats) -> None:
        """Learn what an adopted process has."""
        self._loaded = OrderedDict.fromkeys(stats.adapters)

    async def ensure(self, process: Process, adapter: Adapter, *, used: Collection[str]) -> None:
        """Have `adapter` loaded; the least recently used one that is not in `used` makes room.

        Raises:
            EngineFailed: its files cannot be had, or the engine refuses it.
            EngineGone: the process died.
        """
        if adapter.digest not in self._loaded:
            async with self._turn:
                if adapter.digest not in self._loaded:
                    await self._load(process, adapter, used=used)
        self._loaded.move_to_end(adapter.digest)

    async def _load(self, process: Process, adapter: Adapter, *, used: Collection[str]) -> None:
        try:
            path = await asyncio.to_thread(adapter.fetch)
        except ModelyardError as error:
            told = JobError(code=error.code, title=error.message, retryable=error.retryable)
            raise EngineFailed(told) from error
        while len(self._loaded) >= max(1, process.config.max_adapters) and (oldest := self._oldest(used)):
            await process.client.post(UNLOAD, UnloadAdapter(lora_name=oldest).model_dump())
            del self._loaded[oldest]
            self._changed()
        reply = await process.client.post(LOAD, LoadAdapter(lora_name=adapter.digest, lora_path=str(path)).model_dump())
        if reply.status != 200:
            raise EngineFailed(_refused(reply))
        self._loaded[adapter.digest] = None
        self._changed()
        log.info("adapter loaded", extra={"adapter": adapter.digest, "engine": process.config.engine_id})

    def _oldest(self, used: Collection[str]) -> str | None:
        return next((digest for digest in self._loaded if digest not in used), None)


def _refused(reply: Reply) -> JobError:
    detail = reply.body.decode(errors="replace")[:500]
    return JobError(
        code="adapter_load_failed",
        title="The engine could not load the adapter",
        detail=f"status {reply.status}: {detail}",
        retryable=reply.status >= 500,
    )
