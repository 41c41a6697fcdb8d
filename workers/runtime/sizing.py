"""How large an engine is: what it admits, the tokens its cache holds, its ranks, and the memory that all this takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Self

import psutil

from services.workers.types import Measure
from shared.contracts.engine import EngineConfig, EngineStats
from shared.contracts.jobs import JobError
from shared.queues import GIB, gpu_class
from shared.settings import Settings
from workers.runtime.launch import kinds
from workers.runtime.launch.transformers import Transformers
from workers.runtime.launch.vllm import Vllm
from workers.runtime.post_mortem import OUT_OF_MEMORY
from workers.runtime.served import ServedModel
from workers.runtime.slots import CPU

MIB: Final = 2**20
USABLE: Final = 0.9  # of a device, and of a host's real memory: the rest is the driver's, or other people's
#: of one rank besides weights and cache: 430 MB of torch and transformers; on a GPU the context, graphs, activations
PROCESS_BYTES: Final = {True: 450 * MIB, False: 1536 * MIB}
SPARE_TOLERANCE: Final = 1.05  # a measure was of one moment
WIDTHS: Final = {"float32": 4, "bfloat16": 2, "float16": 2, "fp32": 4, "bf16": 2, "fp16": 2}
CPU_TOKENS: Final = (16_384, 32_768)  # of a CPU engine's cache: at least, and at most whatever the context
GPU_TOKENS: Final = 8192  # of a sequence: what a GPU engine asks for at least, and per sequence at most
CACHE_SHARE: Final = 0.85  # of what weights leave, for our own engine's cache: a large vocabulary's logits take GiB
HALVINGS: Final = 2  # of the batch, before more devices are tried
DEGREES: Final = (1, 2, 4, 8)

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Need:
    """Bytes of each of its slots: `least` to run at all, `most` that it can use."""

    least: int = 0
    most: int = 0


@dataclass(frozen=True)
class Size:
    """What an engine is started with."""

    in_flight: int = 64  #: requests of jobs
    headroom: int = 0  #: sequences that it admits beyond them
    kv_tokens: int = 0  #: 0: what the engine chooses
    ranks: int = 1
    slots: int = 1
    need: Need = Need()
    adapter: int = 0  #: bytes of each slot that one LoRA adapter takes, at most
    granted: int = 0  #: bytes of each slot that it got
    halvings: int = 0

    @property
    def admitted(self) -> int:
        """Sequences that the engine admits in all."""
        return self.in_flight + self.headroom

    def halved(self) -> Self:
        """Half the batch and half the cache."""
        return replace(
            self,
            in_flight=max(1, self.in_flight // 2),
            headroom=self.headroom // 2,
            kv_tokens=self.kv_tokens // 2,
            halvings=self.halvings + 1,
        )


class Sizes:
    """The sizes of this worker's engines."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cpu = settings.gpu_class == CPU
        self.budget = budget(settings)  #: bytes of one slot that engines may fill

    def of(self, model: ServedModel, *, devices: int, measure: Measure | None = None) -> Size:
        """The size of an engine of `model` on `devices` devices; `measure` is what the last one took."""
        serving, settings = model.serving, self._settings
        ranks = serving.tensor_parallel or (1 if self._cpu else devices)
        size = Size(
            in_flight=serving.max_in_flight or settings.engine_max_in_flight,
            headroom=settings.engine_headroom,
            ranks=ranks,
            slots=devices if self._cpu else max(ranks, devices),  # the ranks of a CPU engine share its slot
        )
        tokens = self._tokens(model, size)
        need = self._need(model, size, tokens=tokens, measure=measure)
        size = replace(size, kv_tokens=tokens, need=need)
        return replace(size, adapter=self.adapter_bytes(model, size))

    def adopted(self, config: EngineConfig, stats: EngineStats, *, slots: int) -> Size:
        """The size of an engine that is running already."""
        headroom = min(self._settings.engine_headroom, config.max_in_flight - 1)
        held = stats.memory_bytes // slots
        return Size(
            in_flight=config.max_in_flight - headroom,
            headroom=headroom,
            ranks=config.tensor_parallel,
            slots=slots,
            need=Need(held, held),
            granted=held,
        )

    def adapter_bytes(self, model: ServedModel, size: Size) -> int:
        """Bytes that an adapter takes beside the model: our own engine merges it into a copy with a cache of its own.

        vLLM has room for its adapters from the start.
        """
        if self._kind(model) != Transformers.kind or size.ranks > 1:
            return 0
        context = model.serving.context_length or model.context_length
        tokens = max(context, size.kv_tokens // 4) if self._cpu else context  # `workers.engine.memory`
        return model.parameters * WIDTHS[self.dtype(model)] + tokens * self.kv_bytes_per_token(model)

    def dtype(self, model: ServedModel) -> Dtype:
        """What the engine computes in."""
        if model.serving.dtype is not None:
            return model.serving.dtype
        if self._cpu:  # vLLM's kernels for packed weights have no float32, our own engine unpacks them
            return "bfloat16" if _is_quantized(model) and self._kind(model) == Vllm.kind else "float32"
        return "float16" if model.dtype == "fp16" else "bfloat16"

    def context(self, model: ServedModel) -> int | None:
        """The longest sequence; None leaves it to the model."""
        return model.serving.context_length

    def _tokens(self, model: ServedModel, size: Size) -> int:
        context = model.serving.context_length or model.context_length or GPU_TOKENS
        if self._cpu:
            return min(max(context, CPU_TOKENS[0]), CPU_TOKENS[1])
        return size.admitted * min(context, GPU_TOKENS)

    def _need(self, model: ServedModel, size: Size, *, tokens: int, measure: Measure | None) -> Need:
        per_slot = size.ranks if self._cpu else 1  # ranks that share a slot
        token = self.kv_bytes_per_token(model)
        fixed = self._weights(model) / size.ranks + PROCESS_BYTES[self._cpu]
        least = fixed + token * min(tokens, GPU_TOKENS) / size.ranks
        most = fixed + token * tokens / size.ranks
        if self._cpu:
            least = most if measure is None else measure.memory_bytes * SPARE_TOLERANCE / per_slot
            most = least
        return Need(int(least * per_slot), int(most * per_slot))

    def kv_bytes_per_token(self, model: ServedModel) -> int:
        """Bytes of one token's keys and values in every layer, in what the engine computes in."""
        stored = max(2, WIDTHS.get(model.dtype, 2))  # what `kv_bytes_per_token` counts with
        return model.kv_bytes_per_token * WIDTHS[self.dtype(model)] // stored if self._cpu else model.kv_bytes_per_token

    def cache_bytes(self, model: ServedModel, size: Size) -> int:
        """Bytes for keys and values in what an engine got, of all its ranks."""
        fixed = self._weights(model) / size.ranks + PROCESS_BYTES[self._cpu]
        return max(0, int((size.granted - fixed) * size.ranks * CACHE_SHARE))

    def _weights(self, model: ServedModel) -> int:
        own = self._kind(model) == Transformers.kind  # it computes with quantized checkpoints in full width
        if own if _is_quantized(model) else self._cpu:
            return max(model.weight_bytes, model.parameters * WIDTHS[self.dtype(model)])
        return model.weight_bytes // 2 if model.serving.quantization == "fp8" else model.weight_bytes

    def _kind(self, model: ServedModel) -> str:
        return kinds.choose(model.serving.engine, self._settings)

    def next_degree(self, model: ServedModel, size: Size, *, devices: int) -> Size | None:
        """The next tensor-parallel size on at most `devices` GPUs; None when there is none."""
        if self._cpu:
            return None
        wider = [n for n in DEGREES if size.ranks < n <= devices and model.kv_heads % n == 0]
        return replace(self.of(model, devices=wider[0]), ranks=wider[0], slots=wider[0]) if wider else None

    def too_large(self, model: ServedModel, size: Size) -> JobError:
        """What to say when nothing helps: what needs what, and what could be changed."""
        has = self.budget * (1 if self._cpu else size.slots)
        needs = size.need.least * (1 if self._cpu else size.slots)
        return JobError(
            code=OUT_OF_MEMORY,
            title="The model and its KV cache do not fit this worker's devices",
            detail=(
                f"{model.name} needs about {needs / GIB:.1f} GiB ({self._weights(model) / GIB:.1f} GiB of weights as "
                f"{self.dtype(model)}, {size.kv_tokens} tokens of KV cache, {size.ranks} rank(s)); engines have "
                f"{has / GIB:.1f} GiB on {size.slots} device(s) of class {self._settings.gpu_class}. Lower "
                "context_length or max_in_flight in its serving options, quantize it, raise tensor_parallel, or use a "
                "larger class."
            ),
            retryable=False,
        )


def _is_quantized(model: ServedModel) -> bool:
    return model.dtype not in WIDTHS


def budget(settings: Settings) -> int:
    """Bytes of one slot that engines may fill together.

    Raises:
        UnknownClass: the class table has not the worker's class.
    """
    room = gpu_class(settings.gpu_class).memory_bytes
    if settings.engine_memory_gib:
        return int(settings.engine_memory_gib * GIB)
    if settings.gpu_class == CPU:
        room = min(room, psutil.virtual_memory().total)
    return int(room * USABLE)


def free_devices(budgets: Sequence[int], need: Need) -> int:
    """How many of these slots have room for `need`."""
    return sum(room >= need.least for room in budgets)
