"""What a spare process does before it knows its model: everything that every model needs.

Imports are most of a small model's start (4 of 5 s); a first forward and a first batch pay for lazy set-up in torch.
"""

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from workers.engine import process

#: Imported for their own sake: the families that are served most, and the engine's own modules.
READY = (AutoTokenizer, modeling_qwen2, modeling_qwen3, process)


def rehearse() -> None:
    """Load and run the smallest possible model once."""
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    network = LlamaForCausalLM._from_config(config, attn_implementation="paged|sdpa")  # noqa: SLF001 - as Auto does
    with torch.no_grad():
        network.generate_batch(
            [[1, 2, 3]],
            GenerationConfig(do_sample=False, max_new_tokens=2, eos_token_id=-1, pad_token_id=0),
            ContinuousBatchingConfig(block_size=16, num_blocks=8, max_batch_tokens=16),
        )
