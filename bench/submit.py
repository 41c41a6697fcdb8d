"""Submit: `POST /v1/jobs` a second against a bare FastAPI route that inserts one row with psycopg."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from sqlalchemy import text

from bench.load import Load, closed_loop, open_loop, post_bytes
from bench.report import Report, Row
from bench.yard import Yard, until
from shared.embedded.ports import pick

CLIENTS = 16
ROUNDS = 3
LATER = "2100-01-01T00:00:00Z"  # accepted, not due: the worker stays out of the measurement


def measure(yard: Yard, report: Report, *, seconds: float) -> None:
    """Alternate the two, round by round; then half load."""
    job = json.dumps({"kind": "probe", "spec": {}, "run_after": LATER}).encode()
    ours = post_bytes("/v1/jobs", job, host="localhost", key=yard.key)
    bare = post_bytes("/rows", b'{"text": "one row"}', host="localhost")
    ratios, rates = [], []
    with _bare(yard) as port:
        for _ in range(ROUNDS):
            base = _run(("127.0.0.1", port), bare, seconds=seconds)
            mine = _run(yard.address, ours, seconds=seconds)
            rates.append(mine.rate)
            ratios.append(mine.rate / base.rate)
            report.add(Row("submit", "bare FastAPI + psycopg, one row", base.rate, "req/s"))
            report.add(Row("submit", "POST /v1/jobs", mine.rate, "req/s", note=f"p95 {mine.percentile(0.95):.1f} ms"))
    ratio = statistics.median(ratios)
    report.add(Row("submit", "ratio, median of rounds", ratio, "×", "≥ 0.5", ratio >= 0.5))
    half = asyncio.run(open_loop(*yard.address, ours, rate=statistics.median(rates) / 2, seconds=seconds, expect=202))
    assert not half.failures, f"{half.failures} submits were not answered 202"
    p95 = half.percentile(0.95)
    report.add(Row("submit", "p95 at half load", p95, "ms", "≤ 25", p95 <= 25, f"p50 {half.percentile(0.5):.1f} ms"))
    with yard.database.transaction() as session:
        session.execute(
            text("""UPDATE jobs SET state = 'cancelled', cancel_requested_at = clock_timestamp(),
                    finished_at = clock_timestamp() WHERE state = 'queued'""")
        )


def _run(address: tuple[str, int], request: bytes, *, seconds: float) -> Load:
    load = asyncio.run(closed_loop(*address, request, clients=CLIENTS, seconds=seconds, expect=202))
    assert not load.failures, f"{load.failures} of {len(load.latencies)} were not answered 202"
    return load


@contextmanager
def _bare(yard: Yard) -> Iterator[int]:
    url = yard.settings.database_url.get_secret_value().replace("postgresql+psycopg", "postgresql")
    with yard.database.transaction() as session:
        session.execute(
            text("""CREATE TABLE IF NOT EXISTS bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text,
                    created_at timestamptz DEFAULT clock_timestamp())""")
        )
    port = pick(("bare",), keep={})["bare"]
    words = [sys.executable, "-m", "uvicorn", "bench.bare:app", "--port", str(port), "--no-access-log"]
    server = subprocess.Popen([*words, "--log-level", "warning"], env={**os.environ, "BARE_URL": url})
    try:
        until(lambda: _answers(port))
        yield port
    finally:
        server.terminate()
        server.wait(timeout=20)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/docs", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False
