"""`python -m workers.engine.guard GUARD.json`: one foreign server, configured by one file."""

import os
import sys
from pathlib import Path

from shared.contracts.guard import GuardConfig
from workers.engine.guard.tree import adopt_orphans
from workers.engine.guard.warden import Warden
from workers.engine.life import die_with_parent
from workers.engine.log import log, start_logging


def main() -> None:
    """Start the server, guard it, and leave with the exit status that the engine's contract asks for."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m workers.engine.guard GUARD.json")
    config = GuardConfig.model_validate_json(Path(sys.argv[1]).read_bytes())
    if config.parent_pid is not None:
        die_with_parent(config.parent_pid)
    adopt_orphans()
    start_logging(config.engine_id)
    log("starting", pid=os.getpid(), model=config.models[0], server=Path(config.argv[0]).name)
    warden = Warden.fork(config)  # before threads, and before the imports that it does not need

    from workers.engine.guard.process import run  # noqa: PLC0415

    status = run(config, warden)
    log("stopped", status=status)
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
