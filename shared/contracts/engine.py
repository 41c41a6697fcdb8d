"""The engine process: the one JSON file it is started with, and what it says about itself.

An engine is started as `python -m workers.engine CONFIG.json` and serves on the Unix socket `uds`:

| route | answer |
|---|---|
| `GET /health` | 200 when ready; 503 while loading and while draining; always open, without a token |
| `GET /stats` | `EngineStats` |
| `GET /v1/models` | OpenAI's list; `context_length` beside each |
| `POST /v1/completions`, `POST /v1/chat/completions` | OpenAI's bodies, streamed or whole |
| `GET /lifeline` | never ends; the engine exits when the last one breaks |
| `POST /detach` | `Detach`; lets the engine outlive its worker for `grace_s` |
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

UDS_PATH_BYTES = 106  #: sockaddr_un.sun_path holds 108 with a NUL; one is for a temporary name

EXIT_LIFELINE = 75  #: exit status: the last lifeline broke, or the worker was gone at the start
EXIT_FAILED = 70  #: exit status: the model did not load, or the generation loop died


class EngineState(StrEnum):
    """What an engine is doing."""

    STARTING = "starting"  #: loading the model; no request is admitted
    READY = "ready"  #: admitting requests
    DRAINING = "draining"  #: told to stop: finishing what it has, admitting nothing


class EngineConfig(BaseModel):
    """Everything an engine is told. `kv capacity = block_size × num_blocks` tokens, shared by all sequences."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine_id: str
    model_path: Path  #: a folder of safetensors, configuration and tokenizer
    models: Annotated[tuple[str, ...], Field(min_length=1)]  #: names served, the canonical one first
    uds: Path  #: socket, mode 0600, in a folder that exists; it appears when it can be connected to
    token: Annotated[str | None, Field(repr=False)] = None  #: bearer token asked of every call but `/health`
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    block_size: PositiveInt = 32  #: tokens of one KV block
    num_blocks: PositiveInt = 512
    max_batch_tokens: PositiveInt = 512  #: prompt and decode tokens of one step
    max_in_flight: PositiveInt = 64  #: sequences admitted, running or waiting; one more is answered 429
    threads: PositiveInt | None = None  #: CPU threads of torch; null leaves torch's own choice
    parent_pid: PositiveInt | None = None  #: die with this process; null when nobody watches
    detach_grace_s: PositiveFloat = 60  #: how long `POST /detach` without a figure lets the engine live alone
    drain_s: PositiveFloat = 5  #: from SIGTERM until what still runs is aborted
    lock_fds: tuple[NonNegativeInt, ...] = ()  #: inherited device locks; held until the process ends

    @model_validator(mode="after")
    def _socket_path_fits(self) -> Self:
        if len(bytes(self.uds)) > UDS_PATH_BYTES:
            raise ValueError(f"uds is longer than {UDS_PATH_BYTES} bytes: {self.uds}")
        return self


class EngineStats(BaseModel):
    """`GET /stats`: figures of this moment. Blocks that hold only reusable prefixes count as free."""

    model_config = ConfigDict(frozen=True)

    engine_id: str
    pid: int
    state: EngineState
    model: str  #: canonical name
    context_length: int  #: tokens of prompt and output together; 0 while starting
    running: int  #: sequences in the batch
    waiting: int  #: sequences admitted, not in the batch yet
    max_in_flight: int
    kv_blocks_total: int  #: 0 while starting
    kv_blocks_free: int
    tokens_generated: int  #: since the start, of every sequence, cancelled ones included
    started_at: float  #: Unix seconds
    ready_at: float | None  #: Unix seconds
    lifelines: int  #: lifelines open now
    detached: bool  #: whether it would outlive its last lifeline for a while


class Detach(BaseModel):
    """`POST /detach`: live on without a lifeline for `grace_s` seconds; the next lifeline ends the permission."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    grace_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] | None = None
