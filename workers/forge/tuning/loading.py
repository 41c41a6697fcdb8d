"""The base, as it is trained: its dtype, its device, its attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from shared.contracts.tuning import Method, Precision
from workers.forge.checkpoints import (
    LOCAL,
    check_complete,
    check_finite,
    check_folder,
    quantized_by,
    read_config,
    unsupported,
)
from workers.forge.ranks import rank, under_torchrun
from workers.forge.refusing import Refused
from workers.forge.tuning import attention

Word = Literal["bf16", "fp16", "fp32"]
_WORDS: Final[Mapping[Precision, Word | None]] = {
    Precision.AUTO: None, Precision.BF16: "bf16", Precision.FP16: "fp16", Precision.FP32: "fp32",
}  # fmt: skip
DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Device:
    """Where a rank trains, and in what."""

    name: str  #: `cpu`, `cuda:0` …
    precision: Word

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.name != "cpu"

    @property
    def width(self) -> int:
        """Bytes of a number that is computed with."""
        return 4 if self.precision == "fp32" else 2


def device(precision: Precision, *, devices: int) -> Device:
    """This rank's device, and the precision that `auto` means on it.

    Raises:
        Refused: `unsupported_precision`: the device cannot compute in what was asked for.
    """
    if not torch.cuda.is_available():
        if precision in (Precision.BF16, Precision.FP16):
            raise Refused("unsupported_precision", f"A CPU is trained on in fp32, not in {precision}")
        return Device("cpu", "fp32")
    here = rank() if under_torchrun() else 0
    torch.cuda.set_device(here)
    able = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision is Precision.BF16 and not able:
        raise Refused("unsupported_precision", f"{torch.cuda.get_device_name()} cannot compute in bf16")
    word: Word = _WORDS[precision] or ("bf16" if able else "fp16")
    if word == "fp16" and devices > 1:
        raise Refused("unsupported_precision", "fp16 is trained on one device alone: its scaling knows no shards")
    return Device(f"cuda:{here}", word)


def load(folder: Path, *, method: Method, on: Device) -> Any:
    """transformers' model, ready to be trained. Of several ranks the first has it on the CPU, the others shapes alone.

    In fp16 what is trained is in fp32: its gradients are scaled, and too small for 16 bits.

    Raises:
        Refused: `unsafe_model`, `unsupported_model`, `non_finite_weights`.
    """
    check_folder(folder)
    config = read_config(folder)
    if (how := quantized_by(folder)) is not None:
        raise Refused("unsupported_model", f"The base is quantized ({how}): train the model that it was made of")
    whole_in_fp32 = on.precision == "fp16" and method is Method.FULL
    dtype = torch.float32 if whole_in_fp32 else DTYPES[on.precision]
    word = attention.choose(config, gpu=on.gpu)
    if rank():
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=word)
    options = {"device_map": {"": on.name}} if on.gpu and not under_torchrun() else {}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=word,
            use_safetensors=True,
            output_loading_info=True,
            **options,
            **LOCAL,
        )
    except SafetensorError as error:
        raise Refused("unsafe_model", "A safetensors file is broken", str(error)) from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise unsupported(error) from error
    check_complete(info)
    check_finite(model.named_parameters())
    return model


def decoder_layers(model: Any) -> list[Any]:
    """The layers that follow one another, in their order.

    Raises:
        Refused: `unsupported_model`: there are none where transformers' decoders have them.
    """
    base = getattr(model, "get_base_model", lambda: model)()
    layers = getattr(base.get_decoder() if hasattr(base, "get_decoder") else base.base_model, "layers", None)
    if not layers:
        raise Refused("unsupported_model", "The model's decoder has no list of layers")
    return list(layers)
