"""From an engine that has its devices to a process that loads its model: files, configuration, command, start."""

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from shared.contracts.engine import EngineConfig
from shared.contracts.jobs import JobError
from shared.errors import ModelyardError
from shared.ids import new_id
from shared.queues import gpu_class
from shared.settings import Settings
from shared.telemetry import logger
from workers.runtime.devices import Devices
from workers.runtime.engine import Engine
from workers.runtime.engine_process import EngineProcess
from workers.runtime.folders import EngineFiles, Folders
from workers.runtime.launch.kinds import launcher
from workers.runtime.launch.order import Order
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.sizing import Sizes
from workers.runtime.slots import CPU
from workers.runtime.spares import Spares

OWN: Final = "transformers"  # the kind that a spare process can become
BLOCK_TOKENS: Final = {True: 32, False: 256}  # of our own engine's cache, on a CPU and on a GPU
MOST_FRACTION: Final = 0.95
LORA_RANK: Final = 64  # that an engine holds at least, whatever the adapters of its base are now

log = logger(__name__)


class Starter:
    """Starts the processes of this worker's engines. Used on the runner's loop."""

    def __init__(
        self,
        settings: Settings,
        folders: Folders,
        devices: Devices,
        *,
        sizes: Sizes,
        spares: Spares,
        rank: Callable[[str], Awaitable[int]] | None = None,
    ) -> None:
        """`rank` tells the largest rank of the adapters that a base has now."""
        self._settings = settings
        self._folders = folders
        self._devices = devices
        self._sizes = sizes
        self._spares = spares
        self._rank = rank
        self._cpu = settings.gpu_class == CPU

    async def start(self, engine: Engine) -> EngineProcess:
        """A process that loads the engine's model now.

        Raises:
            EngineFailed: the model's files cannot be had, or this host has no such kind of engine.
        """
        try:
            path = await asyncio.to_thread(engine.model.fetch)
            rank = await self._rank(engine.model.digest) if self._rank and engine.kind != OWN else 0
            spare = self._spares.take() if engine.kind == OWN and engine.size.ranks == 1 else None
            config = self._configure(engine, path, rank=rank)
            if spare is not None:
                config = config.model_copy(update={"log": self.log_of(engine.model.digest)})
            files = self.files(config.engine_id, engine.model.digest)
            command = launcher(engine.kind, self._settings).command(self._order(engine, config, files.folder))
        except ModelyardError as error:
            told = JobError(code=error.code, title=error.message, retryable=error.retryable)
            raise EngineFailed(told) from error
        process = EngineProcess.start(
            files,
            config,
            command,
            kind=engine.kind,
            serving=engine.model.serving,
            slots=engine.slots,
            spare=spare,
        )
        about = {"engine": config.engine_id, "pid": process.pid, "kind": engine.kind, "spare": spare is not None}
        log.info("engine starting", extra=about)
        return process

    def _configure(self, engine: Engine, path: Path, *, rank: int) -> EngineConfig:
        engine_id, settings, model = new_id(), self._settings, engine.model
        return EngineConfig(
            engine_id=str(engine_id),
            model_path=path,
            models=tuple(dict.fromkeys((model.name, model.digest))),
            uds=self._folders.socket(engine_id),
            listen=_listen(settings.engine_bind),
            token=secrets.token_hex(24),  # on command lines of third engines a leading dash would read as an option
            device="cpu" if self._cpu else "cuda",
            dtype=self._sizes.dtype(model),
            tensor_parallel=engine.size.ranks,
            sampling=model.serving.sampling or ("full" if self._cpu else "fast"),
            context_length=model.serving.context_length,
            num_blocks=self._blocks(engine) if engine.kind == OWN else None,
            max_in_flight=engine.size.admitted,
            max_adapters=settings.engine_max_adapters,
            lora_rank=max(LORA_RANK, rank),
            threads=settings.engine_threads or None,
            parent_pid=os.getpid(),
            detach_grace_s=settings.engine_handover_s,
            lock_fds=tuple(self._devices.slots.descriptors(engine.slots)),
        )

    def _blocks(self, engine: Engine) -> int | None:
        """KV blocks of our own engine, as many as the memory that it got holds; None leaves it to the engine."""
        tokens, token = engine.size.kv_tokens, self._sizes.kv_bytes_per_token(engine.model)
        if not self._cpu and token:
            tokens = min(tokens, self._sizes.cache_bytes(engine.model, engine.size) // token)
        return tokens // BLOCK_TOKENS[self._cpu] + 1 if tokens > 0 else None

    def _order(self, engine: Engine, config: EngineConfig, folder: Path) -> Order:
        size, memory = engine.size, gpu_class(self._settings.gpu_class).memory_bytes
        cache = size.kv_tokens * self._sizes.kv_bytes_per_token(engine.model) // size.ranks
        return Order(
            config,
            folder=folder,
            mode=engine.modes[0],
            quantization=engine.model.serving.quantization,
            memory_fraction=round(min(MOST_FRACTION, size.granted / memory), 3) if size.granted else 0.9,
            kv_bytes=cache or None,
        )

    def log_of(self, digest: str) -> Path:
        """One log a model: it is appended to, and capped."""
        return self._folders.logs / f"engine-{digest[:12]}.log"

    def files(self, engine_id: str, digest: str) -> EngineFiles:
        """Where an engine's files are."""
        return self._folders.engine_files(engine_id, self.log_of(digest))


def _listen(bind: str) -> str | None:
    """A free port of the private address on which engines serve other hosts' gateways."""
    if not bind:
        return None
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((bind.strip("[]"), 0))
        port = probe.getsockname()[1]
    return f"[{bind.strip('[]')}]:{port}" if family == socket.AF_INET6 else f"{bind}:{port}"
