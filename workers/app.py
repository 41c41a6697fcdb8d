"""`python -m workers.app`: a worker. The runner first, so that it works while Redis is away; then the bells.

SIGTERM and SIGINT drain; a second one hurries. SIGHUP drains too, but leaves the engines to the worker that comes next.
"""

import logging
import os
import signal
import sys
import threading
from types import FrameType

from shared import telemetry
from shared.errors import UnknownClass
from shared.queues import BadClassFile, gpu_class
from shared.settings import settings
from workers.runner import Runner

log = telemetry.logger(__name__)


class _Signals:
    """What the signals of this process mean. Handlers run in the main thread."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._draining = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._told)

    def _told(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._draining:
            self._runner.hurry()
        self._draining = True
        self._runner.drain(detach=number == signal.SIGHUP)


def main() -> None:
    """Run a worker of this host's GPU class until it is told to stop."""
    configured = settings()
    telemetry.configure("worker", level=configured.log_level)
    try:
        gpu_class(configured.gpu_class)
    except (UnknownClass, BadClassFile) as error:
        sys.exit(f"modelyard worker: {error} (MODELYARD_GPU_CLASS, MODELYARD_GPU_CLASSES_FILE)")
    runner = Runner(configured)
    runner.start()
    _Signals(runner)
    threading.Thread(target=_hear, args=(runner,), name="bells", daemon=True).start()
    log.info("worker started", extra={"queues": runner.queues})
    runner.join()
    log.info("worker ended")
    logging.shutdown()
    sys.stderr.flush()
    os._exit(0)  # threads that wait for Redis or a hung statement are not waited for


def _hear(runner: Runner) -> None:
    """Turn bells into wakes. Celery takes signal handlers only in the main thread, which is ours."""
    from shared.broker import consume  # noqa: PLC0415 - 0.2 s that the first claim does not wait for

    consume("worker", queues=runner.queues, wake=runner.wake, stopping=threading.Event())


if __name__ == "__main__":
    main()
