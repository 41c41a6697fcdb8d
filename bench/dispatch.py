"""Dispatch: no-op jobs a second through one worker, against no-op Celery tasks on the same Redis."""

import statistics
import subprocess
import sys
import time

from sqlalchemy import text

from bench.report import Report, Row
from bench.yard import Yard, until

ROUNDS = 3
IDLE_JOBS = 60


def measure(yard: Yard, report: Report, *, jobs: int) -> None:
    """Alternate the two, round by round; then the latency of single jobs on an idle yard."""
    ratios = []
    for _ in range(ROUNDS):
        base = _celery(yard, jobs)
        mine = run_jobs(yard, jobs)
        ratios.append(mine / base)
        report.add(Row("dispatch", "Celery at its best: threads 8, prefetch on", base, "tasks/s"))
        report.add(Row("dispatch", "no-op jobs through one worker", mine, "jobs/s"))
    ratio = statistics.median(ratios)
    report.add(Row("dispatch", "ratio, median of rounds", ratio, "×", "≥ 2.0", ratio >= 2.0))
    waits = _idle(yard)
    p95 = waits[int(len(waits) * 0.95)]
    note = f"p50 {statistics.median(waits):.1f} ms, {IDLE_JOBS} jobs one at a time"
    report.add(Row("dispatch", "p95 from accepted to running, idle", p95, "ms", "≤ 50", p95 <= 50, note))


def _celery(yard: Yard, count: int) -> float:
    broker = yard.settings.broker_url.get_secret_value()
    words = [sys.executable, "-m", "bench.celery_baseline", broker, str(count)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=300)
    rates = [line for line in done.stdout.splitlines() if line.startswith("tasks/s: ")]
    if not rates:
        msg = f"the Celery baseline printed no rate: {done.stderr[-2000:]}"
        raise RuntimeError(msg)
    return float(rates[0].split()[-1])


def run_jobs(yard: Yard, count: int) -> float:
    """Queue everything for one moment to come, then time first start to last finish by the database's clock."""
    tenant = "(SELECT id FROM tenants ORDER BY created_at LIMIT 1)"
    with yard.database.transaction() as session:
        session.execute(
            text(f"""
            INSERT INTO jobs (id, tenant_id, kind, spec, gpu_class, queue, tier, priority, run_after, planned_gpu_s)
            SELECT gen_random_uuid(), {tenant}, 'probe', '{{"steps": 0, "step_seconds": 0.0, "checkpoint_every": 0,
              "pool": "serve"}}', 'cpu', 'cpu.serve', 1, 5, clock_timestamp() + interval '3 seconds', 0.001
            FROM generate_series(1, :count)"""),
            {"count": count},
        )
        session.execute(
            text(f"INSERT INTO fair_shares SELECT 'cpu.serve', 1, {tenant} ON CONFLICT DO NOTHING"),
        )
        session.execute(
            text("""INSERT INTO job_events (job_id, seq, tenant_id, type)
                    SELECT id, 1, tenant_id, 'job.queued' FROM jobs WHERE state = 'queued' AND kind = 'probe'""")
        )
        session.execute(
            text(
                """INSERT INTO outbox (queue, available_at)
                VALUES ('cpu.serve', clock_timestamp() + interval '3 seconds')"""
            )
        )
    until(lambda: _open_probes(yard) == 0, timeout_s=300, every_s=0.2)
    with yard.database.transaction() as session:
        seconds = session.execute(
            text("""SELECT EXTRACT(EPOCH FROM max(finished_at) - min(started_at))::float8
                    FROM (SELECT * FROM jobs WHERE kind = 'probe' AND state = 'succeeded'
                          ORDER BY finished_at DESC LIMIT :count) last"""),
            {"count": count},
        ).scalar_one()
    return count / float(seconds)


def _open_probes(yard: Yard) -> int:
    with yard.database.transaction() as session:
        found = session.execute(
            text("SELECT count(*) FROM jobs WHERE kind = 'probe' AND finished_at IS NULL")
        ).scalar_one()
    return int(found)


def _idle(yard: Yard) -> list[float]:
    """Milliseconds from accepted to running, sorted."""
    ids = []
    for _ in range(IDLE_JOBS):
        ids.append(yard.submit("probe", {}))
        yard.finished(ids[-1])
        time.sleep(0.02)
    with yard.database.transaction() as session:
        rows = session.execute(
            text(
                """SELECT EXTRACT(EPOCH FROM started_at - created_at)::float8 FROM jobs
                WHERE id = ANY(CAST(:ids AS uuid[]))"""
            ),
            {"ids": ids},
        ).scalars()
        return sorted(float(seconds) * 1e3 for seconds in rows)
