"""What a guarded server is at this moment."""

import asyncio
import os
import time
from contextlib import suppress

from shared.contracts.engine import EngineState, EngineStats
from shared.contracts.guard import GuardConfig
from workers.engine.figures import NOTHING
from workers.engine.guard.environment import visible_devices
from workers.engine.guard.foreign import Foreign, Silent
from workers.engine.guard.memory import DeviceMemory, resident
from workers.engine.guard.tree import descendants
from workers.engine.life import Lifelines

_POLL_S = 0.1


class Guarded:
    """The configuration, the state, and the server to ask."""

    def __init__(self, config: GuardConfig, lifelines: Lifelines, *, warden_pid: int) -> None:
        self.config = config
        self.lifelines = lifelines
        self.state = EngineState.STARTING
        self.stopped = asyncio.Event()  #: set when the server is to leave; lifelines end by it
        self._server = Foreign(config)
        self._warden_pid = warden_pid
        self._on_devices = DeviceMemory(visible_devices()) if config.device == "cuda" else None
        self._started_at = time.time()
        self._ready_at: float | None = None

    async def admits(self) -> bool:
        """Whether requests are admitted now."""
        return self.state is EngineState.READY and await asyncio.to_thread(self._server.admits)

    async def up(self) -> None:
        """Wait until the server admits requests and lists its model."""
        while not await asyncio.to_thread(self._is_up):  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(_POLL_S)
        if self.state is EngineState.STARTING:
            self.state = EngineState.READY
            self._ready_at = time.time()

    def _is_up(self) -> bool:
        with suppress(Silent):
            return self._server.admits() and self._server.serves()
        return False

    async def drain(self) -> None:
        """Count as draining, and give what runs `drain_s` seconds."""
        self.state = EngineState.DRAINING
        deadline = time.monotonic() + self.config.drain_s
        while time.monotonic() < deadline:
            stats = await self.stats()
            if not stats.running + stats.waiting:
                break
            await asyncio.sleep(_POLL_S)
        self.stopped.set()

    async def stats(self) -> EngineStats:
        """The figures of this moment; those that the server does not tell are 0."""
        return await asyncio.to_thread(self._stats)

    def _stats(self) -> EngineStats:
        figures, adapters, context_length = NOTHING, tuple[str, ...](), 0
        with suppress(Silent):
            figures = self._server.figures()
            served = self._server.served()
            adapters, context_length = served.adapters, served.context_length
        return EngineStats(
            engine_id=self.config.engine_id,
            pid=os.getpid(),
            state=self.state,
            model=self.config.models[0],
            context_length=context_length,
            running=figures.running,
            waiting=figures.waiting,
            max_in_flight=self.config.max_in_flight,
            kv_blocks_total=figures.blocks_total,
            kv_blocks_free=figures.blocks_free,
            tokens_generated=figures.tokens_generated,
            started_at=self._started_at,
            ready_at=self._ready_at,
            modes=self.config.modes,
            adapters=adapters,
            adapters_idle_s={
                name: round(max(0.0, time.time() - at), 3)
                for name, at in figures.adapters_at.items()
                if name in adapters
            },
            memory_bytes=self._memory(),
            lifelines=self.lifelines.open,
            detached=self.lifelines.detached,
        )

    def _memory(self) -> int:
        server = descendants(self._warden_pid)
        return self._on_devices.held(server) if self._on_devices else resident(server)
