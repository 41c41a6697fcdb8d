"""What every foreign server has in common: the guard around it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.contracts.guard import GuardConfig
from shared.contracts.serving import Mode
from workers.runtime.launch.order import Command, Order

#: Told to every server. Its Python must not meet our packages; models come from the worker alone.
ENVIRONMENT = {
    "PYTHONPATH": None,
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def control_socket(uds: Path) -> Path:
    """Where the guard of the server on `uds` listens."""
    return Path(f"{uds}.guard")


def guarded(
    order: Order,
    argv: Sequence[str],
    *,
    env: Mapping[str, str | None],
    names: tuple[str, ...],
    modes: tuple[Mode, ...],
    port: int | None = None,
) -> Command:
    """A server's command line, inside a guard."""
    config, file = order.config, order.folder / "guard.json"
    guard = GuardConfig(
        engine_id=config.engine_id,
        control=control_socket(config.uds),
        uds=config.uds,
        argv=tuple(argv),
        env={**ENVIRONMENT, **env},
        cwd=order.folder,
        port=port,
        listen=config.listen,
        models=names,
        token=config.token,
        modes=modes,
        device=config.device,
        max_in_flight=config.max_in_flight,
        parent_pid=config.parent_pid,
        detach_grace_s=config.detach_grace_s,
        drain_s=config.drain_s,
        lock_fds=config.lock_fds,
    )
    return Command(
        argv=(sys.executable, "-m", "workers.engine.guard", str(file)),
        files={order.folder / "config.json": config.model_dump_json(), file: guard.model_dump_json()},
        control=guard.control,
    )
