"""transformers' own sampling (5.17), for `sampling: fast`: what it can do per request, and a refusal of the rest.

On a GPU a processor written in Python excludes CUDA graphs and asynchronous batching; this one does not. It draws with
one generator for the whole batch, so a seed means nothing here, and it knows temperature, top_k and top_p alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from transformers import GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList

from shared.contracts.openai import GenerateBody
from workers.engine.errors import UnsupportedParameter

#: Parameters that fast sampling cannot honour, with the values that ask for nothing.
_NEUTRAL: Final[Mapping[str, Any]] = {
    "frequency_penalty": 0.0,
    "logit_bias": {},
    "min_p": 0.0,
    "min_tokens": 0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
}


def generation_config(eos: Sequence[int], vocabulary: int) -> GenerationConfig:
    """What makes transformers create all three processors: each is left out where its default asks for nothing."""
    return GenerationConfig(
        do_sample=True,
        temperature=0.99,
        top_k=vocabulary,
        top_p=0.99,
        eos_token_id=list(eos) or -1,
        pad_token_id=0,
    )


def refuse_what_fast_cannot(body: GenerateBody) -> None:
    """Raises UnsupportedParameter, which names the first parameter that needs `sampling: full`."""
    asked = [name for name, neutral in _NEUTRAL.items() if getattr(body, name) != neutral]
    if body.response_format is not None and body.response_format.type != "text":
        asked.append("response_format")
    if body.top_logprobs_wanted is not None:
        asked.append("logprobs")
    if body.seed is not None and body.temperature > 0:
        asked.append("seed")
    if getattr(body, "tools", None) and getattr(body, "tool_choice", None) not in (None, "auto", "none"):
        asked.append("tool_choice")
    if asked:
        raise UnsupportedParameter(f"`{asked[0]}` needs an engine with sampling: full.", param=asked[0])


class NativeSampler(ContinuousBatchingLogitsProcessorList):
    """transformers' list of processors, told each request's `Sampling` and counting what it draws for."""

    tokens_generated = 0  #: rows that got a new token since the start

    @classmethod
    def of(cls, processors: ContinuousBatchingLogitsProcessorList, vocabulary: int) -> "NativeSampler":
        """The list that a manager has made for itself, with our two methods."""
        sampler = cls.__new__(cls)
        sampler.__dict__ = {**processors.__dict__, "vocabulary": vocabulary}
        return sampler

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Spell one request's wishes as transformers does; greedy is a draw among one."""
        wishes = kwargs["sampling"]
        greedy = wishes.temperature == 0
        kwargs["temperature"] = 1.0 if greedy else float(wishes.temperature)
        kwargs["top_k"] = 1 if greedy else min(wishes.top_k or self.vocabulary, self.vocabulary)
        kwargs["top_p"] = 1.0 if greedy else float(wishes.top_p)

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        """The parameters of this step's rows, as int32."""
        self.tokens_generated += sum(row.has_new_token for row in requests_in_batch)
        return super().prepare_tensor_args(requests_in_batch, arg_storage)
