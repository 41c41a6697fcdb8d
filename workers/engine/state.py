"""What an engine is at this moment, for everything that serves it."""

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from shared.contracts.engine import EngineConfig, EngineState, EngineStats
from shared.contracts.serving import Mode
from workers.engine.embeddings import Embedder
from workers.engine.errors import Draining, InvalidRequest, ModelNotFound, NotReady
from workers.engine.figures import NOTHING
from workers.engine.generation import Generator
from workers.engine.life import Lifelines
from workers.engine.log import log
from workers.engine.memory import held
from workers.engine.model import Model
from workers.engine.served import Served


class Engine:
    """The configuration, the state, and what is served once the model is loaded."""

    def __init__(self, config: EngineConfig, lifelines: Lifelines, pids: tuple[int, ...]) -> None:
        self.config = config
        self.lifelines = lifelines
        self.state = EngineState.STARTING
        self.started_at = time.time()
        self.ready_at: float | None = None
        self.stopped = asyncio.Event()  #: set when nothing generates any more; lifelines end by it
        self.adapters: dict[str, Served] = {}  #: by name
        self._base: Served | None = None
        self._leaving: list[Served] = []
        self._pids = pids

    @property
    def base(self) -> Served:
        """The model itself. Raises NotReady while loading, Draining once told to stop."""
        if self.state is EngineState.DRAINING:
            raise Draining
        if self._base is None:
            raise NotReady
        return self._base

    @property
    def names(self) -> tuple[str, ...]:
        """Every model name that is answered."""
        return (*self.config.models, *self.adapters)

    @property
    def context_length(self) -> int:
        """Tokens of prompt and output together; 0 while starting."""
        return self._base.model.context_length if self._base is not None else 0

    @property
    def sequences(self) -> int:
        """Sequences admitted and not finished, of every model name: what `max_in_flight` limits."""
        return sum(served.sequences for served in self._all())

    @property
    def in_flight(self) -> int:
        """Sequences and inputs taken and not answered, of every model name."""
        return sum(served.in_flight for served in self._all())

    def served(self, name: str) -> Served:
        """What answers for a model name. Raises ModelNotFound, NotReady, Draining."""
        base = self.base
        if name in self.config.models:
            return base
        if name not in self.adapters:
            raise ModelNotFound(f"This engine does not serve `{name}`.", param="model")
        self.adapters[name].asked()
        return self.adapters[name]

    def generator(self, name: str) -> Generator:
        """Who generates for a model name. Raises ModelNotFound, NotReady, Draining."""
        return self.served(name).generator

    def embedder(self, name: str) -> tuple[Embedder, Model]:
        """Who embeds for a model name, and by which model. Raises ModelNotFound, NotReady, Draining, InvalidRequest."""
        served = self.served(name)
        if Mode.EMBED not in modes_of(self.config):
            raise InvalidRequest("This engine embeds with tensor_parallel 1 only.", param="model")
        return served.embedder, served.model

    def serve(self, model: Model) -> Served:
        """What runs on a model's weights, not started."""
        return Served(model, self.config, taken=lambda: self.sequences)

    def ready(self, base: Served) -> None:
        """Admit requests from now on."""
        self._base = base
        self.state = EngineState.READY
        self.ready_at = time.time()

    @contextmanager
    def leaving(self, served: Served) -> Iterator[None]:
        """Count an adapter that is asked no more and has not ended yet."""
        self._leaving.append(served)
        try:
            yield
        finally:
            self._leaving.remove(served)

    def failure(self) -> Exception | None:
        """Why generation has ended, if it has. An adapter that failed ends alone."""
        for name, served in list(self.adapters.items()):
            if (error := served.failure) is not None:
                log("adapter_failed", level=logging.ERROR, adapter=name, error=type(error).__name__)
                del self.adapters[name]
                served.close()
        return self._base.failure if self._base is not None else None

    async def drain(self) -> None:
        """Admit nothing more, give what runs `drain_s` seconds, then abort it."""
        self.state = EngineState.DRAINING
        deadline = time.monotonic() + self.config.drain_s
        while self.in_flight:
            if time.monotonic() > deadline:
                log("aborted", sequences=self.in_flight)
                for served in self._all():
                    served.abort(Draining())
                break
            await asyncio.sleep(0.02)
        self.stopped.set()

    def close(self) -> None:
        """Stop everything that generates. Blocks: call it off the loop."""
        for served in self._all():
            served.close()

    def stats(self) -> EngineStats:
        """The figures of this moment; KV blocks are the model's own, an adapter's are apart."""
        own = self._base.figures() if self._base is not None else NOTHING
        every = [served.figures() for served in self._all()]
        return EngineStats(
            engine_id=self.config.engine_id,
            pid=os.getpid(),
            state=self.state,
            model=self.config.models[0],
            context_length=self.context_length,
            running=sum(figures.running for figures in every),
            waiting=sum(figures.waiting for figures in every),
            max_in_flight=self.config.max_in_flight,
            kv_blocks_total=own.blocks_total,
            kv_blocks_free=own.blocks_free,
            tokens_generated=sum(figures.tokens_generated for figures in every),
            started_at=self.started_at,
            ready_at=self.ready_at,
            modes=modes_of(self.config),
            adapters=tuple(self.adapters),
            adapters_idle_s={
                name: round(idle_s, 3)
                for name, served in self.adapters.items()
                if (idle_s := served.idle_s) is not None
            },
            memory_bytes=held(self.config, self._pids),
            lifelines=self.lifelines.open,
            detached=self.lifelines.detached,
        )

    def _all(self) -> Iterator[Served]:
        if self._base is not None:
            yield self._base
        yield from (*self.adapters.values(), *self._leaving)


def modes_of(config: EngineConfig) -> tuple[Mode, ...]:
    """What an engine can do. Ranks take part in generation alone: see decision 0009."""
    return (Mode.GENERATE, Mode.EMBED) if config.tensor_parallel == 1 else (Mode.GENERATE,)
