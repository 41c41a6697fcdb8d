"""What an engine is at this moment, for everything that serves it."""

import asyncio
import os
import time

from shared.contracts.engine import EngineConfig, EngineState, EngineStats
from workers.engine.errors import Draining, NotReady
from workers.engine.generation import Figures, Generator
from workers.engine.life import Lifelines
from workers.engine.log import log

_NOTHING = Figures(running=0, waiting=0, blocks_total=0, blocks_free=0, tokens_generated=0)


class Engine:
    """The configuration, the state, and the generator once the model is loaded."""

    def __init__(self, config: EngineConfig, lifelines: Lifelines) -> None:
        self.config = config
        self.lifelines = lifelines
        self.state = EngineState.STARTING
        self.started_at = time.time()
        self.ready_at: float | None = None
        self.stopped = asyncio.Event()  #: set when nothing generates any more; lifelines end by it
        self._generator: Generator | None = None

    @property
    def generator(self) -> Generator:
        """Who generates. Raises NotReady while loading, Draining once told to stop."""
        if self.state is EngineState.DRAINING:
            raise Draining
        if self._generator is None:
            raise NotReady
        return self._generator

    @property
    def context_length(self) -> int:
        """Tokens of prompt and output together; 0 while starting."""
        return self._generator.model.context_length if self._generator is not None else 0

    def ready(self, generator: Generator) -> None:
        """Admit requests from now on."""
        self._generator = generator
        self.state = EngineState.READY
        self.ready_at = time.time()

    async def drain(self) -> None:
        """Admit nothing more, give what runs `drain_s` seconds, then abort it."""
        self.state = EngineState.DRAINING
        generator, deadline = self._generator, time.monotonic() + self.config.drain_s
        while generator is not None and generator.in_flight:
            if time.monotonic() > deadline:
                log("aborted", sequences=generator.in_flight)
                generator.abort_all(Draining())
                break
            await asyncio.sleep(0.02)
        self.stopped.set()

    def stats(self) -> EngineStats:
        """The figures of this moment."""
        figures = self._generator.figures() if self._generator is not None else _NOTHING
        return EngineStats(
            engine_id=self.config.engine_id,
            pid=os.getpid(),
            state=self.state,
            model=self.config.models[0],
            context_length=self.context_length,
            running=figures.running,
            waiting=figures.waiting,
            max_in_flight=self.config.max_in_flight,
            kv_blocks_total=figures.blocks_total,
            kv_blocks_free=figures.blocks_free,
            tokens_generated=figures.tokens_generated,
            started_at=self.started_at,
            ready_at=self.ready_at,
            lifelines=self.lifelines.open,
            detached=self.lifelines.detached,
        )
