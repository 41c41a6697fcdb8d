"""Sequences are admitted together, and generated in one batch with everybody else's."""

import queue
import random
from collections.abc import Callable, Sequence
from itertools import count

from shared.contracts.engine import EngineConfig
from workers.engine.errors import ContextLengthExceeded, EngineError, InvalidRequest, NotReady, Overloaded
from workers.engine.figures import Figures
from workers.engine.flight import FinishReason, Flight, Piece, Strand, Wishes
from workers.engine.model import Model
from workers.engine.records import Record
from workers.engine.sampling import Sampler
from workers.engine.text import Detokenizer, StopScanner

__all__ = ["FinishReason", "Flight", "Generator", "Piece", "Wishes"]


class Generator:
    """Admits sequences to the manager and fans its results out. Lives on the event loop; has no lock."""

    def __init__(self, model: Model, config: EngineConfig, *, taken: Callable[[], int]) -> None:
        self.model = model
        self._taken = taken  # sequences in flight in the whole engine, adapters included
        self.max_in_flight = config.max_in_flight
        self._blocks_total = model.num_blocks
        self._flights: set[Flight] = set()
        self._in_flight: set[str] = set()
        self._numbers = count()

    @property
    def in_flight(self) -> int:
        """Sequences admitted and not finished."""
        return len(self._in_flight)

    def admit(self, prompts: Sequence[list[int]], wishes: Wishes, *, param: str) -> Flight:
        """Start generating `wishes.n` sequences for every prompt, or none at all.

        Raises ContextLengthExceeded and InvalidRequest, which name `param` or what else is wrong; Overloaded; NotReady.
        """
        if not 1 <= len(prompts) <= self.max_in_flight:
            raise InvalidRequest(f"One to {self.max_in_flight} prompts in one request.", param=param)
        size = len(prompts) * wishes.n
        if size > self.max_in_flight:
            raise InvalidRequest(f"This engine runs {self.max_in_flight} sequences, not {size} at once.", param="n")
        limits = [self._limit(prompt, wishes, param=param) for prompt in prompts]
        if size + self._taken() > self.max_in_flight:
            raise Overloaded
        return self._start(prompts, wishes, limits)

    def release(self, id_: str, *, cancel: bool) -> None:
        """Forget a sequence, and stop it if it still runs."""
        self._in_flight.discard(id_)
        self._records.pop(id_, None)
        if not cancel:
            return
        manager = self.model.manager
        manager.cancel_request(id_)
        manager.output_router.result_handlers.pop(id_, None)
        # A token made before the cancellation was seen lands in the shared queue, which nobody else reads.
        late = manager.output_router.output_queue
        while True:
            try:
                late.get_nowait()
            except queue.Empty:
                return

    def landed(self, flight: Flight) -> None:
        """Forget a flight whose sequences are all released."""
        self._flights.discard(flight)

    def figures(self) -> Figures:
        """What the manager has to do, read from the side while it works."""
        manager = self.model.manager
        processor = manager.batch_processor
        return Figures(
            running=len(processor.scheduler.active_requests),
            waiting=len(processor.scheduler.waiting_requests) + manager.input_queue.qsize(),
            blocks_total=self._blocks_total,
            blocks_free=processor.cache.get_num_free_blocks(),
            tokens_generated=self.model.sampler.tokens_generated,
        )

    def abort_all(self, error: EngineError) -> None:
        """Make every reader raise `error`."""
        for flight in self._flights:
            flight.abort(error)

    @property
    def _records(self) -> dict[str, Record]:
        """Where the generation thread finds a sequence's record; transformers' own sampling keeps none."""
        sampler = self.model.sampler
        return sampler.records if isinstance(sampler, Sampler) else {}

    def _start(self, prompts: Sequence[list[int]], wishes: Wishes, limits: Sequence[int]) -> Flight:
        decode, manager = self.model.tokenizer.decode, self.model.manager
        endings = frozenset(wishes.stop_tokens) | (frozenset() if wishes.ignore_eos else self.model.eos)
        seed = random.getrandbits(63) if wishes.seed is None else wishes.seed
        strands = [
            Strand(str(next(self._numbers)), Detokenizer(decode), StopScanner(wishes.stops), Record())
            for _ in range(len(prompts) * wishes.n)
        ]
        flight = Flight(strands, wishes=wishes, prompts=prompts, endings=endings, holder=self)
        self._flights.add(flight)
        self._in_flight.update(strand.id for strand in strands)
        ends = tuple(sorted(endings))
        samplings = [wishes.sampling(seed + choice, ends) for choice in range(wishes.n)]
        for index, strand in enumerate(strands):
            prompt, choice = divmod(index, wishes.n)
            self._records[strand.id] = strand.record
            manager.register_result_handler(strand.id, flight.handler(index))
            admitted = manager.add_request(
                prompts[prompt],
                request_id=strand.id,
                max_new_tokens=limits[prompt],
                streaming=wishes.stream or bool(wishes.stops),
                eos_token_id=list(ends) or -1,
                sampling=samplings[choice],
            )
            if admitted is None:
                flight.close()
                raise NotReady("The generation loop has stopped.")
        return flight

    def _limit(self, prompt: list[int], wishes: Wishes, *, param: str) -> int:
        context, wanted = self.model.context_length, wishes.max_tokens
        room = context - len(prompt)
        if room < (wanted or 1):
            asked = f"the prompt has {len(prompt)} and {wanted or 1} more were asked for"
            raise ContextLengthExceeded(f"The context holds {context} tokens; {asked}.", param=param)
        if wishes.min_tokens > (wanted or room):
            raise InvalidRequest(f"min_tokens is more than the {wanted or room} that may come.", param="min_tokens")
        return wanted or room
