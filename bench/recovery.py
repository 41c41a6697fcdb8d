"""Recovery: `kill -9` of the worker in the middle of a job, to the first line that the next attempt records."""

import time
from typing import Any

from sqlalchemy import text

from bench.inference import MODEL, prompts
from bench.report import Report, Row
from bench.yard import Yard, until

LINES = 200
ROUNDS = 2


def measure(yard: Yard, report: Report) -> None:
    """Kill to first new line on the same host, and what became of the lines."""
    for _ in range(ROUNDS):
        spec = {"model": MODEL, "prompts": prompts(LINES), "max_tokens": 128, "ignore_eos": True}
        job_id = yard.submit("inference", spec)
        until(lambda job_id=job_id: _recorded(yard, job_id, attempt=1) >= LINES // 10, timeout_s=120)  # type: ignore[misc]
        yard.kill("worker")
        killed = time.perf_counter()
        until(lambda job_id=job_id: _recorded(yard, job_id, attempt=2) > 0, timeout_s=120)  # type: ignore[misc]
        seconds = time.perf_counter() - killed
        job = yard.finished(job_id)
        report.add(Row("recovery", "kill -9 of the worker to first new line", seconds, "s", note=_account(yard, job)))


def _recorded(yard: Yard, job_id: str, *, attempt: int) -> int:
    with yard.database.transaction() as session:
        found = session.execute(
            text("SELECT count(*) FROM job_items WHERE job_id = CAST(:id AS uuid) AND attempt = :attempt"),
            {"id": job_id, "attempt": attempt},
        ).scalar_one()
    return int(found)


def _account(yard: Yard, job: dict[str, Any]) -> str:
    per_attempt = [_recorded(yard, job["id"], attempt=number) for number in range(1, job["attempt"] + 1)]
    return f"{job['state']}, lines per attempt {per_attempt}, {sum(per_attempt)} of {LINES}"
