"""Our own engine: it speaks the control protocol itself, on the socket that serves requests."""

import sys
from typing import Final

from shared.contracts.serving import Mode
from workers.runtime.launch.order import Command, Order


class Transformers:
    """Launcher of `python -m workers.engine`."""

    kind: Final = "transformers"
    modes: Final = (Mode.GENERATE, Mode.EMBED)
    adapters: Final = True
    priority: Final = False

    def command(self, order: Order) -> Command:
        """The engine itself."""
        file = order.folder / "config.json"
        return Command(
            argv=(sys.executable, "-m", "workers.engine", str(file)),
            files={file: order.config.model_dump_json()},
            control=order.config.uds,
        )
