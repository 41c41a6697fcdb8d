"""Memory: proportional set size of each role, idle; and whether it stays flat over many jobs."""

from bench import dispatch
from bench.report import Report, Row
from bench.yard import Yard, resident_mb

AIMS = {"gateway": 200, "relay": 150, "courier": 150, "worker": 150}
YARD_AIM = 1000


def measure(yard: Yard, report: Report) -> None:
    """Each role beside its aim, before any engine runs."""
    for role, aim in AIMS.items():
        found = resident_mb(yard.pids[role])
        report.add(Row("memory", f"{role}, idle", found, "MB", f"≤ {aim}", found <= aim))
    whole = resident_mb([pid for pids in yard.pids.values() for pid in pids])
    report.add(Row("memory", "whole embedded yard, idle, no engine", whole, "MB", f"≤ {YARD_AIM}", whole <= YARD_AIM))


def growth(yard: Yard, report: Report, *, jobs: int) -> None:
    """How much each role grew from the end of a first tenth to the end of `jobs` jobs."""
    dispatch.run_jobs(yard, jobs // 10)
    before = {role: resident_mb(yard.pids[role]) for role in AIMS}
    dispatch.run_jobs(yard, jobs - jobs // 10)
    for role, start in before.items():
        grown = resident_mb(yard.pids[role]) - start
        report.add(Row("memory", f"{role}, growth over {jobs:,} jobs", grown, "MB", "≤ 15", grown <= 15))
