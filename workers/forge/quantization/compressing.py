"""llm-compressor's one shot over a loaded model, with progress by layer and its failures in our words."""

from typing import Any, Final

import torch
from llmcompressor import oneshot
from llmcompressor.core import reset_session
from torch.fx.proxy import TraceError
from torch.utils.data import DataLoader

from workers.forge.checkpoints import listed, unsupported
from workers.forge.data.samples import Samples
from workers.forge.quantization.modifiers import Gptq
from workers.forge.ranks import rank, world_size
from workers.forge.refusing import Refused
from workers.forge.telling import Tell

# N samples, L tokens of each, B samples of a batch

#: Tokens of a batch. On a CPU any number from 256 up is equally fast; attention is computed eagerly while a model is
#: traced, so that memory grows with batch × length².
CPU_TOKENS: Final = 2048
GPU_TOKENS: Final = 8192
#: Share of a GPU's free memory that samples on their way through the layers may have; else they wait on the host.
KEPT_SHARE: Final = 0.25

#: What llm-compressor raises when it cannot follow a model: no mapping for its layers, a forward it cannot trace.
_CANNOT: Final = (TraceError, ValueError, TypeError, AttributeError, KeyError, NotImplementedError, RuntimeError)


class Layers:
    """Counts decoder layers, over all passes."""

    def __init__(self, model: Any, made: list[Any], *, tell: Tell) -> None:
        classes = set(getattr(model, "_no_split_modules", None) or ())
        self._layers = sum(type(module).__name__ in classes for module in model.modules()) or 1
        self._done = [0] * len(made)
        self._tell = tell
        for index, modifier in enumerate(made):
            step = 1 if modifier.requires_calibration_data else self._layers  # without data all are done at once
            modifier.call_after_each_layer(lambda index=index, step=step: self._pass(index, step))
        self._say()

    def _pass(self, index: int, step: int) -> None:
        # behind the last layer there is one part more: the norm and the output layer
        self._done[index] = min(self._done[index] + step, self._layers)
        self._say()

    def _say(self) -> None:
        self._tell.progress(sum(self._done), self._layers * len(self._done), "layers")


def compress(model: Any, tokenizer: Any, made: list[Any], samples: Samples | None, *, tell: Tell) -> None:
    """Quantize a model in place, by modifiers; `samples` are run through it where they need some.

    Raises:
        Refused: `unsupported_model`, with llm-compressor's reason.
    """
    Layers(model, made, tell=tell)
    options: dict[str, Any] = {}
    if samples is not None:
        options["dataset"] = DataLoader(batches(samples), batch_size=None)
        options["sequential_offload_device"] = _waits_on(model, samples)
    try:
        oneshot(model=model, processor=tokenizer, recipe=made, **options)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except _CANNOT as error:
        if _is_of_the_machine(error):
            raise
        raise unsupported(error) from error
    finally:
        reset_session()  # it holds the model
    _warn(made, tell)


def batches(samples: Samples) -> list[dict[str, Any]]:
    """This rank's samples as the batches of a data loader. Padding is cut off: it would count in every statistic."""
    ids_NL = _ours(torch.from_numpy(samples.input_ids_NL.astype("int64")))
    lengths_N = _ours(samples.attention_mask_NL.sum(axis=1))
    length = ids_NL.shape[1]
    if (lengths_N < length).any():
        return [{"input_ids": ids_L[None, : int(own)]} for ids_L, own in zip(ids_NL, lengths_N, strict=True)]
    tokens = GPU_TOKENS if torch.cuda.is_available() else CPU_TOKENS
    return [{"input_ids": ids_BL} for ids_BL in ids_NL.split(max(1, tokens // length))]


def _ours(rows: Any) -> Any:
    """The rows of this rank: an equal part, or all where there are fewer than ranks (each then sees the same)."""
    ranks = world_size()
    return rows[rank() :: ranks] if len(rows) >= ranks else rows


def _waits_on(model: Any, samples: Samples) -> str:
    if not torch.cuda.is_available():
        return "cpu"
    hidden = model.config.get_text_config().hidden_size
    needed = samples.input_ids_NL.size // world_size() * hidden * model.dtype.itemsize
    free, _ = torch.cuda.mem_get_info()
    return f"cuda:{torch.cuda.current_device()}" if needed < KEPT_SHARE * free else "cpu"


def _is_of_the_machine(error: BaseException) -> bool:
    """Memory, disk and the network between ranks say nothing about a model."""
    text = str(error)
    return isinstance(error, OSError) or any(
        word in text for word in ("memory", "CUDA error", "NCCL", "No space left", "CUBLAS", "CUDNN")
    )


def _warn(made: list[Any], tell: Tell) -> None:
    fallen = [name for modifier in made if isinstance(modifier, Gptq) for name in modifier.rounded_instead]
    if fallen:
        tell.log(f"rounded to nearest, because GPTQ's Hessian was singular: {listed(fallen)}", "warning")


def check_needed(samples: Samples | None, made: list[Any]) -> None:
    """Refuse modifiers that need data where there is none.

    Raises:
        Refused: `not_enough_data`.
    """
    if samples is None and any(modifier.requires_calibration_data for modifier in made):
        raise Refused("not_enough_data", "This scheme needs calibration data")
