"""The models that are judged: what is known before their weights are read, and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from shared.contracts.forge_orders import Subject
from workers.forge.checkpoints import check_folder, load_tokenizer, read_config
from workers.forge.data.tasks import Prompt
from workers.forge.data.templates import ChatRefused, Renderer
from workers.forge.data.tokenizing import check_known

Role = Literal["baseline", "candidate"]


@dataclass(frozen=True)
class Reader:
    """A model's tokenizer and limits."""

    subject: Subject
    tokenizer: Any  #: transformers' tokenizer
    context_length: int | None  #: None: no limit is known
    vocabulary: int

    @classmethod
    def of(cls, subject: Subject) -> "Reader":
        """Read tokenizer and configuration.

        Raises:
            Refused: `unsafe_model`, `unsupported_model`.
        """
        check_folder(subject.folder)
        config = read_config(subject.folder).get_text_config()
        context = getattr(config, "max_position_embeddings", None)
        return cls(subject, load_tokenizer(subject.folder), context, config.vocab_size)

    @property
    def name(self) -> str:
        return self.subject.name

    @cached_property
    def prefix(self) -> list[int]:
        """What the tokenizer puts before a text: BOS, or nothing."""
        bare, framed = self.encode("a"), self.tokenizer("a", verbose=False)["input_ids"]
        starts = range(len(framed) - len(bare) + 1)
        start = next((start for start in starts if framed[start : start + len(bare)] == bare), 0)
        return list(framed[:start])

    def begun(self, ids: Sequence[int]) -> list[int]:
        """A text's first tokens, at least one: where there is nothing else BOS or EOS, as between texts."""
        begun = [*self.prefix, *ids]
        if begun:
            return begun
        ends = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return [next((each for each in ends if each is not None), 0)]

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, and nothing around them.

        Raises:
            Refused: `unsupported_model`, with a token that the model has no row for.
        """
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        check_known(max(ids, default=0), self.vocabulary)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, special ones left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def asks(self, prompt: Prompt) -> list[int] | None:
        """Tokens of a question, up to where the answer begins; None when the chat template refuses the chat.

        A model without a chat template sees a chat as lines `role: content`, the last one `assistant:`.

        Raises:
            Refused: `unsupported_model`, when the template takes too long, and as `encode`.
        """
        if prompt.messages is None:
            return self.begun(self.encode(prompt.prompt or ""))
        if self._renderer.template is None:
            lines = [*(f"{turn.role}: {turn.content}" for turn in prompt.messages), "assistant:"]
            return self.begun(self.encode("\n".join(lines)))
        try:
            return self.encode(self._renderer.render(prompt.messages, answered=False))
        except ChatRefused:
            return None

    def holds(self, tokens: int) -> bool:
        """Whether so many tokens fit into the model's context."""
        return self.context_length is None or tokens <= self.context_length

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self.tokenizer)


@dataclass(frozen=True)
class Runner:
    """A model whose weights are in memory."""

    reader: Reader
    model: Any  #: transformers' causal language model
    device: torch.device  #: where its inputs belong

    @property
    def name(self) -> str:
        return self.reader.name
