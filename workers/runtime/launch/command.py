"""A third engine is a command line in the settings (`engine_commands`)."""

import re
import socket
from typing import Final

from shared.contracts.serving import Mode
from shared.errors import EngineUnavailable
from shared.settings import Settings
from workers.runtime.launch.guarded import guarded
from workers.runtime.launch.order import Command, Order

_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")  # a JSON argument holds none


class CommandLine:
    """Launcher of one named command. Placeholders: see `values`, and infra/docs/vllm.md."""

    modes: Final = (Mode.GENERATE,)
    adapters: Final = False
    priority: Final = False

    def __init__(self, kind: str, settings: Settings) -> None:
        self.kind = kind
        self._line = settings.engine_commands[kind]
        self._env = settings.engine_env

    def command(self, order: Order) -> Command:
        """The command with its placeholders filled, in a guard.

        Raises:
            EngineUnavailable: it has a placeholder that is none, or neither `{uds}` nor `{port}`.
        """
        text = " ".join(self._line)
        port = _free_port() if "{port}" in text else None
        if port is None and "{uds}" not in text:
            raise EngineUnavailable(f"The command line of engine `{self.kind}` has neither {{uds}} nor {{port}}.")
        known = values(order, port=port)
        if unknown := set(_PLACEHOLDER.findall(text)) - set(known):
            msg = f"The command line of engine `{self.kind}` has an unknown placeholder: {', '.join(sorted(unknown))}."
            raise EngineUnavailable(msg)
        argv = [_PLACEHOLDER.sub(lambda found: known[found[1]], argument) for argument in self._line]
        return guarded(order, argv, env={**self._env}, names=(order.served_name,), modes=self.modes, port=port)


def values(order: Order, *, port: int | None) -> dict[str, str]:
    """What the placeholders stand for."""
    config = order.config
    return {
        "uds": str(config.uds),
        "port": str(port or ""),
        "model_path": str(config.model_path),
        "served_name": order.served_name,
        "token": config.token or "",
        "dtype": config.dtype,
        "context_length": str(config.context_length or ""),
        "max_in_flight": str(config.max_in_flight),
        "tensor_parallel": str(config.tensor_parallel),
        "memory_fraction": f"{order.memory_fraction:g}",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
