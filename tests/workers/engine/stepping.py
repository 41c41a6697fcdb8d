"""The sampler as transformers drives it: state objects, one step after the other, the argmax as the token."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from workers.engine.records import Record
from workers.engine.sampling import Sampler, Sampling

GREEDY = Sampling(temperature=0, top_k=0, top_p=1, seed=0)


class Batch:
    """Sequences that are generated together by one sampler."""

    def __init__(self, wishes: Sequence[Sampling], *, sampler: Sampler | None = None, prompt: Sequence[int] = (3, 4)):
        self.sampler = sampler or Sampler()
        self.states = [
            RequestState(
                str(number),
                list(prompt),
                max_new_tokens=1000,
                position_offset=len(prompt),
                logit_processor_kwargs={"sampling": wish},
            )
            for number, wish in enumerate(wishes)
        ]
        for state in self.states:
            self.sampler.records[state.request_id] = Record()

    @property
    def running(self) -> list[RequestState]:
        """Those whose last token is not one that ends them."""
        return [state for state in self.states if not self._ended(state)]

    def step(self, scores: torch.Tensor) -> list[int]:
        """The token of each sequence that runs, given the scores of this step, of which it takes the first rows."""
        running = self.running
        rows = [FutureRequestState(state, has_new_token=True, complete_blocks=0, query_length=1) for state in running]
        arguments = torch.zeros(self.sampler.tensors_required, 512, dtype=torch.int32)
        self.sampler.prepare_tensor_args(cast("Any", rows), arguments)
        tokens: list[int] = self.sampler(torch.empty(0), scores[: len(rows)].clone(), arguments).argmax(-1).tolist()
        for state, token in zip(running, tokens, strict=True):
            state.generated_tokens.append(token)
            state.position_offset += 1
        return tokens

    @staticmethod
    def _ended(state: RequestState) -> bool:
        wish: Sampling = state.logit_processor_kwargs["sampling"]
        return bool(state.generated_tokens) and state.generated_tokens[-1] in wish.endings

    def preempt(self) -> None:
        """What transformers makes of the sequences when their memory is needed."""
        self.states = [state.create_equivalent_initial_request() for state in self.states]
        for state in self.states:
            state.position_offset = len(state.initial_tokens)

    def record(self, number: int) -> Record:
        """What was noted of a sequence."""
        return self.sampler.records[str(number)]
