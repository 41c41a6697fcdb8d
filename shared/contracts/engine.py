"""The engine process: the one JSON file it is started with, and what it says about itself.

An engine is started as `python -m workers.engine CONFIG.json` and serves on the Unix socket `uds`, and on the TCP
address `listen` where one is given. `python -m workers.engine --spare` imports everything first, then reads the path
of its configuration as one line from stdin (end of file: it leaves). With `tensor_parallel` N the process starts the
other ranks itself, as children that die with it.

| route | answer |
|---|---|
| `GET /health` | 200 when ready; 503 while loading and while draining; always open, without a token |
| `GET /stats` | `EngineStats` |
| `GET /v1/models` | OpenAI's list; `context_length` beside each |
| `POST /v1/completions`, `POST /v1/chat/completions` | OpenAI's bodies (`shared.contracts.openai`), streamed or whole |
| `POST /v1/embeddings` | OpenAI's body; last token's final norm, L2-normalised |
| `POST /v1/load_lora_adapter`, `POST /v1/unload_lora_adapter` | `LoadAdapter`, `UnloadAdapter` (vLLM's bodies) |
| `GET /lifeline` | never ends; the engine exits when the last one breaks |
| `POST /detach` | `Detach`; lets the engine outlive its worker for `grace_s` |

With `tensor_parallel` above 1 our own engine generates only: embeddings and adapters are answered with 400.
Unloading an adapter waits for what it still generates. Quantized checkpoints (compressed-tensors) are computed with in
full width, so they take the memory of `dtype`.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from shared.contracts.serving import Mode

UDS_PATH_BYTES = 106  #: sockaddr_un.sun_path holds 108 with a NUL; one is for a temporary name

EXIT_LIFELINE = 75  #: exit status: the last lifeline broke, or the worker was gone at the start
EXIT_FAILED = 70  #: exit status: the model did not load, the generation loop died, or a rank did
EXIT_OOM = 71  #: exit status: a device ran out of memory; the log's last error names OutOfMemoryError

MAX_ADAPTERS = 400


class EngineState(StrEnum):
    """What an engine is doing."""

    STARTING = "starting"  #: loading the model; no request is admitted
    READY = "ready"  #: admitting requests
    DRAINING = "draining"  #: told to stop: finishing what it has, admitting nothing


class EngineConfig(BaseModel):
    """Everything an engine is told. `kv capacity = block_size × num_blocks` tokens, shared by all sequences.

    Of the figures that may be null, a null means one chosen for the device and the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine_id: str
    model_path: Path  #: a folder of safetensors, configuration and tokenizer
    models: Annotated[tuple[str, ...], Field(min_length=1)]  #: names served, the canonical one first
    uds: Path  #: socket, mode 0600, in a folder that exists; it appears when it can be connected to
    listen: Annotated[str, Field(pattern=r"^[0-9a-fA-F.:\[\]]+:\d+$")] | None = (
        None  #: `address:port` to serve on as well
    )
    log: Path | None = None  #: where a spare process sends its log from now on; null keeps stderr as it is
    token: Annotated[str | None, Field(repr=False)] = None  #: bearer token asked of every call but `/health`
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    tensor_parallel: PositiveInt = 1  #: ranks; on CPU through gloo, on GPUs through NCCL
    sampling: Literal["full", "fast"] = "full"  #: fast: native sampling, CUDA graphs; what it cannot do is 400
    max_adapters: Annotated[int, Field(ge=0, le=MAX_ADAPTERS)] = 8  #: LoRA adapters held beside the model
    lora_rank: PositiveInt = 64  #: the largest that an adapter may have; foreign servers reserve room for it
    context_length: PositiveInt | None = None  #: tokens of prompt and output together; null: the model's own
    block_size: Annotated[int, Field(ge=4)] | None = None  #: tokens of one KV block; 32 on CPU, 256 on a GPU
    num_blocks: PositiveInt | None = None  #: KV blocks; null: 32k tokens on CPU, what memory is left on a GPU
    kv_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.8  #: of the memory left after loading, for KV at most
    max_batch_tokens: PositiveInt | None = None  #: prompt and decode tokens of one step; 512 on CPU, 4096 on a GPU
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

    @model_validator(mode="after")
    def _tcp_asks_for_a_token(self) -> Self:
        if self.listen is not None and not self.token:
            raise ValueError("listen needs a token: a TCP port is open to every user of the host")
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
    modes: tuple[Mode, ...] = (Mode.GENERATE,)
    adapters: tuple[str, ...] = ()  #: names of the LoRA adapters that are loaded
    adapters_idle_s: dict[str, float] = {}  #: of those that were asked: seconds since they last answered; 0: they do
    memory_bytes: int = 0  #: resident on the host (CPU) or reserved on its devices (GPU), of all ranks
    lifelines: int  #: lifelines open now
    detached: bool  #: whether it would outlive its last lifeline for a while


class Detach(BaseModel):
    """`POST /detach`: live on without a lifeline for `grace_s` seconds; the next lifeline ends the permission."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    grace_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] | None = None


class LoadAdapter(BaseModel):
    """`POST /v1/load_lora_adapter`: serve the PEFT adapter in `lora_path` as model `lora_name`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    lora_name: Annotated[str, Field(min_length=1)]
    lora_path: Annotated[str, Field(min_length=1)]


class UnloadAdapter(BaseModel):
    """`POST /v1/unload_lora_adapter`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    lora_name: Annotated[str, Field(min_length=1)]
