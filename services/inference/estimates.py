"""What a model takes: memory at each dtype, and the GPU classes that hold it."""

from collections.abc import Iterator
from dataclasses import dataclass

from services.catalog.figures import WIDTHS, cache_width
from services.inference.models import LEAST_TOKENS, ModelFacts
from services.jobs.plan import fit
from shared.queues import gpu_classes

#: dtypes that a checkpoint can be served in whatever it is kept in
CASTS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Memory:
    """Bytes at one dtype: the weights, the KV cache of one token, and that of one whole context."""

    dtype: str
    weight_bytes: int
    kv_bytes_per_token: int
    context_bytes: int


@dataclass(frozen=True)
class Fit:
    """A GPU class that holds a model with its KV cache: the fewest devices, and what they hold in all."""

    gpu_class: str
    devices: int
    dtype: str | None
    memory_bytes: int
    price_per_hour: float


def memory(facts: ModelFacts) -> list[Memory]:
    """The estimate for the model's own dtype and for those that engines can cast it to."""
    dtypes = dict.fromkeys((*((facts.dtype,) if facts.dtype in WIDTHS else ()), *CASTS))
    return [_memory(facts, dtype) for dtype in dtypes]


def fits(facts: ModelFacts) -> list[Fit]:
    """The classes that serve the model, cheapest first, with a KV cache of at least `LEAST_TOKENS` or its context."""
    return sorted(_fits(facts), key=lambda each: (each.price_per_hour, each.devices))


def _fits(facts: ModelFacts) -> Iterator[Fit]:
    needs = facts.needs(LEAST_TOKENS)
    for each in gpu_classes().values():
        devices = fit(each, needs)
        if devices is not None:
            own = needs.on(each)
            price = round(each.price_per_gpu_hour * devices, 4)
            yield Fit(each.name, devices, own.dtype, own.memory_bytes, price)


def _memory(facts: ModelFacts, dtype: str) -> Memory:
    per_token = facts.kv_values_per_token * cache_width(dtype)
    return Memory(dtype, facts.weights_in(dtype), per_token, per_token * facts.context_length)
