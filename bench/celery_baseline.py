"""What dispatch is measured against: no-op Celery tasks at Celery's best, timed inside the worker.

`python -m bench.celery_baseline BROKER COUNT` publishes COUNT tasks, then runs a worker (threads, 8, prefetch on, no
results, no events, no gossip) and prints the tasks a second between the first and the last.
"""

import os
import signal
import sys
import threading
import time

from celery import Celery

COUNT = int(sys.argv[2])
app = Celery("baseline", broker=sys.argv[1])
app.conf.update(
    task_ignore_result=True,
    result_backend=None,
    task_default_queue="bench-baseline",
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    task_acks_late=False,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
)
_lock = threading.Lock()
_seen = 0
_first = 0.0


@app.task(name="noop", ignore_result=True)  # type: ignore[untyped-decorator]
def noop() -> None:
    """Count; the last one prints the rate and ends the process."""
    global _seen, _first  # noqa: PLW0603 - one process, one measurement
    with _lock:
        _first = _first or time.perf_counter()
        _seen += 1
        if _seen == COUNT:
            print(f"tasks/s: {COUNT / (time.perf_counter() - _first)}", flush=True)
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Fill the queue, then empty it."""
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(COUNT):
            noop.apply_async(producer=producer)
    app.worker_main(
        ["worker", "--pool", "threads", "-c", "8", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    )


if __name__ == "__main__":
    main()
