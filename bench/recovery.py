"""Recovery: `kill -9` of the worker in the middle of a job, to the first line that the next attempt records."""

import time
from functools import partial
from typing import Any

from sqlalchemy import text

from bench.inference import MODEL, prompts
from bench.report import Report, Row
from bench.yard import Yard, until

LINES = 400
TOKENS = 24  #: a line's own generation is part of the figure: short lines show the recovery
ROUNDS = 3


def measure(yard: Yard, report: Report) -> None:
    """Kill to claimed again, to an engine that is ready, to the first new line; and what became of the lines."""
    for number in range(ROUNDS):
        spec = {"model": MODEL, "prompts": prompts(LINES, part=1000 + number), "max_tokens": TOKENS, "ignore_eos": True}
        job_id = yard.submit("inference", spec)
        until(partial(_recorded, yard, job_id, attempt=1), timeout_s=120)
        yard.kill("worker")
        killed = time.time()
        until(partial(_recorded, yard, job_id, attempt=2), timeout_s=120)
        line = time.time() - killed
        job = yard.finished(job_id)
        claimed, ready = _moments(yard, job_id)
        report.add(Row("recovery", "kill -9 of the worker to claimed again", claimed - killed, "s"))
        report.add(Row("recovery", "kill -9 of the worker to its next engine ready", ready - killed, "s"))
        report.add(Row("recovery", "kill -9 of the worker to first new line", line, "s", note=_account(yard, job)))


def _moments(yard: Yard, job_id: str) -> tuple[float, float]:
    """Unix seconds of the second attempt's claim, and of the newest engine's readiness (one host: one clock)."""
    with yard.database.transaction() as session:
        row = session.execute(
            text("""SELECT EXTRACT(EPOCH FROM claimed_at)::float8 AS claimed,
                      (SELECT EXTRACT(EPOCH FROM max(ready_at))::float8 FROM engines) AS ready
                    FROM attempts WHERE job_id = CAST(:id AS uuid) AND attempt = 2"""),
            {"id": job_id},
        ).one()
    return float(row.claimed), float(row.ready)


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
