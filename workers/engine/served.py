"""One set of weights and what runs on it: the model itself, or an adapter merged into a copy."""

import time
from collections.abc import Callable

from shared.contracts.engine import EngineConfig
from workers.engine.embeddings import Embedder
from workers.engine.errors import EngineError
from workers.engine.figures import NOTHING, Figures
from workers.engine.generation import Generator
from workers.engine.model import Model


class Served:
    """Generates and embeds for one model name. Generation starts with its first request."""

    def __init__(self, model: Model, config: EngineConfig, *, taken: Callable[[], int]) -> None:
        self.model = model
        self.embedder = Embedder(model, config)
        self._generator = Generator(model, config, taken=taken)
        self._started = False
        self._asked_at: float | None = None

    def asked(self) -> None:
        """Somebody is about to ask it."""
        self._asked_at = time.monotonic()

    @property
    def idle_s(self) -> float | None:
        """Seconds since it was last seen at work; None: nobody ever asked it."""
        if self.in_flight:
            self.asked()
        return None if self._asked_at is None else time.monotonic() - self._asked_at

    @property
    def generator(self) -> Generator:
        """Who generates, started."""
        if not self._started:
            self._started = True
            self.model.manager.start()
        return self._generator

    @property
    def sequences(self) -> int:
        """Sequences admitted and not finished."""
        return self._generator.in_flight

    @property
    def in_flight(self) -> int:
        """Sequences and inputs taken and not answered."""
        return self._generator.in_flight + self.embedder.in_flight

    @property
    def failure(self) -> Exception | None:
        """Why generation has ended, if it has."""
        if not self._started or self.model.manager.is_running():
            return None
        error: Exception | None = self.model.manager.background_thread_status.fatal_error
        return error or RuntimeError("The generation loop ended.")

    def figures(self) -> Figures:
        """The load of this moment."""
        if self.model.manager.batch_processor is None:
            return NOTHING
        return self._generator.figures()

    def abort(self, error: EngineError) -> None:
        """Make every reader raise `error`."""
        self._generator.abort_all(error)
        self.embedder.abort(error)

    def close(self) -> None:
        """Stop what runs and give its memory back. Blocks for a step: call it off the loop."""
        self.embedder.close()
        started, self._started = self._started, False
        if started:
            self.model.manager.stop(block=True, hard_stop=True)
