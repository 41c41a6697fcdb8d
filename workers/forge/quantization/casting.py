"""fp16 and bf16: the same model with other floats. llm-compressor has no part in it."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from shared.contracts.compression import Scheme
from workers.forge.checkpoints import LOCAL, check_complete, check_finite

DTYPES = {Scheme.FP16: torch.float16, Scheme.BF16: torch.bfloat16}


def cast(folder: Path, scheme: Scheme) -> Any:
    """The model of a checkpoint in another dtype, on the CPU. What transformers keeps in fp32 stays so.

    Raises:
        Refused: `non_finite_weights`, with the names of the tensors that have numbers beyond the dtype's range.
    """
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=DTYPES[scheme], use_safetensors=True, output_loading_info=True, **LOCAL
    )
    check_complete(info)
    check_finite(model.named_parameters())
    return model
