"""Loading: a folder of safetensors becomes a model behind transformers' continuous batching manager."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from shared.contracts.engine import EngineConfig
from workers.engine.errors import InvalidRequest
from workers.engine.requests import Message
from workers.engine.sampling import Sampler

# Named, because a bare "sdpa" is silently swapped for flash attention where that is installed (5.17).
ATTENTION = "paged|sdpa"


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Text to tokens and back."""

    backend: Any  #: transformers' fast tokenizer
    vocabulary: int  #: rows of the embedding; a token must be below it

    def encode(self, prompt: str | list[int]) -> list[int]:
        """Tokens of one prompt. Raises InvalidRequest when there are none, or one is out of range."""
        tokens: list[int] = self.backend.encode(prompt) if isinstance(prompt, str) else prompt
        if not tokens:
            raise InvalidRequest("The prompt has no tokens.", param="prompt")
        if max(tokens) >= self.vocabulary:
            raise InvalidRequest(f"A token is not below the vocabulary's {self.vocabulary}.", param="prompt")
        return tokens

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a chat, up to where the assistant speaks. Raises InvalidRequest without a usable template."""
        if self.backend.chat_template is None:
            raise InvalidRequest("The model has no chat template.", param="messages")
        turns = [{"role": message.role, "content": message.text} for message in messages]
        try:
            text = self.backend.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:  # templates refuse chats by raising, for instance two user turns in a row
            raise InvalidRequest(f"The chat template refuses this chat: {error}", param="messages") from None
        return list(self.backend.encode(text, add_special_tokens=False))  # the template has written them

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, special ones left out."""
        text: str = self.backend.backend_tokenizer.decode(tokens, skip_special_tokens=True)
        return text


@dataclass(frozen=True, slots=True)
class Model:
    """What is loaded. `manager` generates on a thread of its own once it is started."""

    manager: Any  #: transformers' ContinuousBatchingManager
    sampler: Sampler
    tokenizer: Tokenizer
    eos: frozenset[int]
    context_length: int  #: tokens of prompt and output together


def load(config: EngineConfig) -> Model:
    """Read weights and tokenizer, and prepare the manager. Minutes for a large model: call it off the loop.

    Raises OSError or ValueError when the folder is not a model that transformers can run.
    """
    torch.set_grad_enabled(False)
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    network = AutoModelForCausalLM.from_pretrained(
        config.model_path,
        attn_implementation=ATTENTION,
        dtype=getattr(torch, config.dtype),
        use_safetensors=True,
        **local,
    ).to(config.device)
    sampler = Sampler()
    tokenizer = AutoTokenizer.from_pretrained(config.model_path, **local)
    eos = _eos_of(network.generation_config)
    manager = network.init_continuous_batching(
        GenerationConfig(do_sample=False, eos_token_id=sorted(eos) or -1, pad_token_id=0),
        ContinuousBatchingConfig(
            block_size=config.block_size,
            num_blocks=config.num_blocks,  # always said: left out, 5.17 takes nine tenths of the memory
            max_batch_tokens=config.max_batch_tokens,
        ),
    )
    manager.logit_processor = sampler
    text = network.config.get_text_config()
    # A sequence that the cache cannot hold at all would end the generation loop, so the cache is a limit too. One
    # block is left over, because the scheduler reserves one in advance.
    capacity = config.block_size * (config.num_blocks - 1)
    return Model(
        manager=manager,
        sampler=sampler,
        tokenizer=Tokenizer(tokenizer, vocabulary=text.vocab_size),
        eos=eos,
        context_length=min(text.max_position_embeddings, capacity),
    )


def _eos_of(generation: GenerationConfig) -> frozenset[int]:
    eos = generation.eos_token_id
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)
