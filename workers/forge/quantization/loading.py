"""The model that is to be quantized, where llm-compressor wants it."""

from pathlib import Path
from typing import Any

import torch
from compressed_tensors.offload import init_dist, load_offloaded_model
from llmcompressor.modeling.moe.linearize import linearize_moe
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from workers.forge.checkpoints import LOCAL, check_complete, check_finite, sizes, unsupported
from workers.forge.ranks import rank, under_torchrun
from workers.forge.refusing import Refused

#: A GPU has room for the whole model, for one layer's Hessians and for a batch's activations beside it.
ROOM = 1.5


class _Whole(AutoModelForCausalLM):
    """Refuses a checkpoint that lacks tensors, where `load_offloaded_model` has no room for an account of the load."""

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """As transformers', on the rank that reads the files: others, and estimates, are on the meta device."""
        if options.get("device_map") == "meta":
            return super().from_pretrained(*args, **options)
        model, info = super().from_pretrained(*args, output_loading_info=True, **options)
        check_complete(info)
        return model


def join_ranks() -> None:
    """Under torchrun: meet the other ranks, each with a GPU of its own."""
    if under_torchrun():
        init_dist()


def load(folder: Path) -> Any:
    """Read a checkpoint for llm-compressor: onto the GPU where it fits, else layers go there one after the other.

    Several ranks share one copy in the host's memory. Experts of a mixture become linear layers of their own.

    Raises:
        Refused: `unsafe_model`, `unsupported_model`, `non_finite_weights`.
    """
    options: dict[str, Any] = {"dtype": "auto", "use_safetensors": True, **LOCAL}
    try:
        if under_torchrun():
            with load_offloaded_model(_Whole):
                model = _Whole.from_pretrained(folder, device_map="auto_offload", **options)
        else:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, output_loading_info=True, **options, **_placed(folder)
            )
            check_complete(info)
        # Afterwards: llm-compressor's way to do it while loading needs torchvision (transformers 5.17 imports all of
        # its models to look for classes).
        linearize_moe(model)
    except SafetensorError as error:
        raise Refused("unsafe_model", "A safetensors file is broken", str(error)) from error
    except (ValueError, KeyError, ImportError) as error:
        raise unsupported(error) from error
    if rank() == 0:
        check_finite(model.named_parameters())
    return model


def _placed(folder: Path) -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {}
    free, _ = torch.cuda.mem_get_info()
    return {"device_map": {"": 0}} if sizes(folder).weight_bytes * ROOM < free else {}
