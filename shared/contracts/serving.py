"""How a model is served: what its owner may choose, with defaults that work."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.jobs import Contract


class Mode(StrEnum):
    """What an engine does with a model. One process may do both; vLLM needs a second one to embed."""

    GENERATE = "generate"  #: chat and completions
    EMBED = "embed"  #: embeddings: last token, L2-normalised


class Policy(StrEnum):
    """When waiting requests of tiers normal and batch are let into an engine."""

    STATIC = "static"  #: whole batches: the next one starts when the last has ended
    DYNAMIC = "dynamic"  #: as soon as a batch is worth it, or the oldest request has waited long enough
    ELASTIC = "elastic"  #: as many as a fitted latency model says that the objective allows
    BATCH_FIRST = "batch_first"  #: the largest first, with ageing


class Batching(Contract):
    """The batcher's policy for one model. A limit is of requests unless its name says otherwise."""

    policy: Policy = Policy.DYNAMIC
    max_batch_size: int | None = Field(None, ge=1, le=4096, strict=True, description="null: all that the engine holds")
    min_batch_size: int = Field(1, ge=1, le=4096, strict=True)
    max_wait_ms: float = Field(20, ge=0, le=60_000, description="of the oldest request, before a small batch goes")
    target_latency_ms: float | None = Field(
        None, gt=0, le=3_600_000, description="elastic: the p95 of a request's latency to keep; dynamic: its slack"
    )
    max_batch_tokens: int | None = Field(None, ge=256, strict=True, description="prompt and output tokens in flight")
    interactive_slowdown: float | None = Field(
        1.15,
        gt=1,
        le=100,
        description="how many times as long jobs may make an engine's step while interactive calls are in flight; "
        "null: jobs do not give way",
    )

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.max_batch_size is not None and self.min_batch_size > self.max_batch_size:
            msg = "min_batch_size is larger than max_batch_size"
            raise ValueError(msg)
        if self.policy is Policy.ELASTIC and self.target_latency_ms is None:
            msg = "elastic needs target_latency_ms: the p95 that it keeps"
            raise ValueError(msg)
        return self


class Serving(Contract):
    """A model version's own serving options; null leaves the worker's default."""

    engine: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")] | None = Field(
        None, description="transformers, vllm, or a name from the setting engine_commands"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="null: float32 on CPU (vLLM with quantized weights: bfloat16), else the checkpoint's"
    )
    tensor_parallel: Literal[1, 2, 4, 8] | None = None
    max_in_flight: int | None = Field(None, ge=1, le=4096, strict=True, description="sequences an engine admits")
    context_length: int | None = Field(None, ge=16, strict=True, description="tokens; at most the model's own")
    sampling: Literal["fast", "full"] | None = Field(
        None,
        description="transformers on a GPU: fast is native sampling with CUDA graphs, full honours every parameter",
    )
    quantization: Literal["fp8"] | None = Field(None, description="vllm: quantize while loading")
    pinned: bool = Field(False, description="never unloaded for another model or for being idle")
    idle_unload_s: float | None = Field(None, gt=0, description="unload after so long without a request")
    batching: Batching = Batching()
