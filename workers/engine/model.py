"""Loading: a folder of safetensors becomes a model behind transformers' continuous batching manager."""

import copy
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig, GenerationConfig
from transformers.distributed import DistributedConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from shared.contracts.engine import EngineConfig
from workers.engine import native
from workers.engine.errors import InvalidRequest
from workers.engine.grammar import Grammars
from workers.engine.log import log
from workers.engine.memory import batch_tokens_of, block_size_of, blocks_for, blocks_for_adapter
from workers.engine.parallel import least
from workers.engine.sampling import Sampler


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Text to tokens and back."""

    backend: Any  #: transformers' fast tokenizer
    vocabulary: int  #: rows of the embedding; a token must be below it

    def encode(self, prompt: str | list[int], *, param: str = "prompt") -> list[int]:
        """Tokens of one prompt. Raises InvalidRequest when there are none, or one is out of range."""
        tokens: list[int] = self.backend.encode(prompt) if isinstance(prompt, str) else prompt
        if not tokens:
            raise InvalidRequest(f"The {param} has no tokens.", param=param)
        if max(tokens) >= self.vocabulary:
            raise InvalidRequest(f"A token is not below the vocabulary's {self.vocabulary}.", param=param)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens, special ones left out."""
        text: str = self.backend.backend_tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class _Always:
    """An event that has always happened."""

    def wait(self, timeout: float) -> bool:
        return timeout >= 0

    def clear(self) -> None: ...

    def set(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Model:
    """What is loaded. `manager` generates on a thread of its own once it is started."""

    network: Any  #: transformers' model, paged; adapters and embeddings have others that share its tensors
    manager: Any  #: transformers' ContinuousBatchingManager
    sampler: Sampler | native.NativeSampler
    tokenizer: Tokenizer
    grammars: Grammars
    eos: frozenset[int]
    context_length: int  #: tokens of prompt and output together
    num_blocks: int  #: KV blocks

    def capture(self, config: EngineConfig) -> None:
        """Record the CUDA graphs of fast sampling before the first request wants one: seconds."""
        if config.device == "cuda" and config.sampling == "fast":
            self.manager.warmup()

    def follow(self, config: EngineConfig) -> None:
        """Generate what rank 0 says, until it ends."""
        # Between two steps 5.17 sleeps 0.1 s where nothing is asked of a rank, and rank 0 would wait for it.
        self.manager._has_new_requests = _Always()  # noqa: SLF001 - it waits in the next collective instead
        self.capture(config)
        self.manager.start()
        self.manager.join(0.0)

    def beside(self, network: Any, config: EngineConfig) -> "Model":
        """The same model with other weights, and a smaller cache of its own."""
        blocks = blocks_for_adapter(config, self.context_length, base=self.num_blocks)
        manager, sampler = _manage(network, config, self.grammars, eos=self.eos, blocks=blocks)
        return replace(self, network=network, manager=manager, sampler=sampler, num_blocks=blocks)


def load(config: EngineConfig) -> Model:
    """Read weights and tokenizer, and prepare the manager. Minutes for a large model: call it off the loop.

    Raises OSError or ValueError when the folder is not a model that transformers can run as `config` says.
    """
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    whole = AutoConfig.from_pretrained(config.model_path, **local)
    about = whole.get_text_config()
    _refuse_what_cannot_be(config, about)
    network = _network(config, local | _full_width(whole))
    tokenizer = AutoTokenizer.from_pretrained(config.model_path, **local)
    eos = _eos_of(network.generation_config)
    blocks = least(config, blocks_for(config, about, network.dtype))
    grammars = Grammars(tokenizer, vocabulary=about.vocab_size, eos=sorted(eos))
    manager, sampler = _manage(network, config, grammars, eos=eos, blocks=blocks)
    # A sequence that the cache cannot hold at all would end the generation loop, so the cache is a limit too. One
    # block is left over, because the scheduler reserves one in advance.
    capacity = block_size_of(config) * (blocks - 1)
    return Model(
        network=network,
        manager=manager,
        sampler=sampler,
        tokenizer=Tokenizer(tokenizer, vocabulary=about.vocab_size),
        grammars=grammars,
        eos=eos,
        context_length=min(config.context_length or about.max_position_embeddings, capacity),
        num_blocks=blocks,
    )


def sharing(network: Any, attention: str | None = None) -> Any:
    """A second network with the same tensors: what it costs is Python objects. `attention` may differ."""
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    shell = copy.deepcopy(network, tensors)
    if attention is not None:
        shell.set_attn_implementation(attention)
    return shell


def _full_width(whole: Any) -> dict[str, Any]:
    """Quantized weights become wide while they are loaded, not in the first step, which a graph may be recording."""
    how = getattr(whole, "quantization_config", None) or {}
    compressed = how.get("quant_method") == "compressed-tensors"
    return {"quantization_config": CompressedTensorsConfig(dequantize=True)} if compressed else {}


def _network(config: EngineConfig, options: dict[str, Any]) -> Any:
    parallel = config.tensor_parallel > 1
    if parallel:
        options = options | {"distributed_config": DistributedConfig(tp_size=config.tensor_parallel)}
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that the checkpoint says how it is quantized
        network = AutoModelForCausalLM.from_pretrained(
            config.model_path,
            attn_implementation=_attention(config),
            dtype=getattr(torch, config.dtype),
            use_safetensors=True,
            **options,
        )
    network.requires_grad_(requires_grad=False)
    return network if parallel else network.to(config.device)  # a parallel one is loaded where it belongs


def _attention(config: EngineConfig) -> str:
    """Named in full, because a bare "sdpa" is silently swapped for flash attention where that is installed (5.17)."""
    if config.device == "cuda" and config.dtype != "float32":
        if is_flash_attn_3_available():
            return "paged|flash_attention_3"
        if is_flash_attn_2_available():
            return "paged|flash_attention_2"
    if config.device == "cuda":
        log("slow_attention", level=logging.WARNING, hint="install flash-attn: without it expect a fifth of the speed")
    return "paged|sdpa"


def _refuse_what_cannot_be(config: EngineConfig, text: Any) -> None:
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    if heads % config.tensor_parallel:
        raise ValueError(f"tensor_parallel {config.tensor_parallel} does not divide the model's {heads} KV heads.")
    if (config.context_length or 0) > text.max_position_embeddings:
        raise ValueError(
            f"context_length {config.context_length} is more than the model's {text.max_position_embeddings}."
        )


def _manage(
    network: Any, config: EngineConfig, grammars: Grammars, *, eos: frozenset[int], blocks: int
) -> tuple[Any, Sampler | native.NativeSampler]:
    """transformers' manager with our sampler in it."""
    fast, vocabulary = config.sampling == "fast", network.config.get_text_config().vocab_size
    greedy = GenerationConfig(do_sample=False, eos_token_id=sorted(eos) or -1, pad_token_id=0)
    manager = network.init_continuous_batching(
        native.generation_config(sorted(eos), vocabulary) if fast else greedy,
        ContinuousBatchingConfig(
            block_size=block_size_of(config),
            num_blocks=blocks,
            max_batch_tokens=batch_tokens_of(config),
            max_requests_per_batch=config.max_in_flight,
            per_request_processors=fast,
            # A Python processor reads the batch on the host: no graph can hold it. Fast: 5.17 decides by attention.
            use_cuda_graph=None if fast else False,
            use_async_batching=None if fast else False,
        ),
    )
    sampler = native.NativeSampler.of(manager.logit_processor, vocabulary) if fast else Sampler(grammars)
    manager.logit_processor = sampler
    return manager, sampler


def _eos_of(generation: GenerationConfig) -> frozenset[int]:
    eos = generation.eos_token_id
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)
