"""What the yard wants of an engine, and the command that gets it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shared.contracts.engine import EngineConfig
from shared.contracts.serving import Mode


@dataclass(frozen=True)
class Order:
    """One engine. `config` says what every kind understands, the rest what foreign servers need besides."""

    config: EngineConfig
    folder: Path  #: the engine's own; the command's files and the server's working directory
    mode: Mode = Mode.GENERATE  #: a transformers engine does both, whatever stands here
    quantization: str | None = None  #: while loading; vLLM alone
    memory_fraction: float = 0.9  #: of each GPU's memory, for weights and KV cache together
    kv_bytes: int | None = None  #: KV cache of each rank on a CPU; null: the launcher's choice

    @property
    def served_name(self) -> str:
        """What requests call the model: its digest, the last of its names."""
        return self.config.models[-1]


@dataclass(frozen=True)
class Command:
    """What the yard starts."""

    argv: tuple[str, ...]
    files: Mapping[Path, str]  #: written (0600) before the start
    control: Path  #: socket of `/health`, `/stats`, `/lifeline` and `/detach`


class Launcher(Protocol):
    """Starts engines of one kind."""

    @property
    def kind(self) -> str:
        """Its name: `transformers`, `vllm`, or one of `engine_commands`."""
        ...

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What one process of it does at once; a mode that is missing needs an engine of its own."""
        ...

    @property
    def adapters(self) -> bool:
        """Whether `/v1/load_lora_adapter` works."""
        ...

    @property
    def priority(self) -> bool:
        """Whether a request may carry `priority`: a lower number goes first, 0 is the default."""
        ...

    def command(self, order: Order) -> Command:
        """The command line of one engine, and the files it reads."""
        ...
