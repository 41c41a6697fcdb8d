"""`make bench`: tables of ratios, each from one run, written to `bench/results/`."""

import argparse
from collections.abc import Sequence

from bench import (
    batch_memory,
    batches,
    calls,
    compression,
    dispatch,
    inference,
    memory,
    parsing,
    recovery,
    submit,
    tuning,
)
from bench.report import Report
from bench.yard import running

#: what each table holds; memory comes first, because it wants a yard without an engine
TABLES = {
    "spine": ("memory", "submit", "dispatch", "growth", "inference", "recovery"),
    "calls": ("calls",),
    "batches": ("batches", "batch-memory"),
    "parsing": ("parsing",),
    "compression": ("compression",),
    "tuning": ("tuning",),
}
SECTIONS = tuple(section for sections in TABLES.values() for section in sections)
TITLES = {
    "spine": "The spine, measured",
    "calls": "Interactive calls, measured",
    "batches": "Batches, measured",
    "parsing": "Reading documents, measured",
    "compression": "Compression, measured",
    "tuning": "Tuning, measured",
}


def main() -> None:
    """Measure section by section, in a fresh yard for each table, and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, to see that it runs; writes nothing")
    asked = parser.parse_args()
    scale = 0.1 if asked.quick else 1.0
    for name, sections in TABLES.items():
        chosen = [section for section in sections if section in asked.only]
        if chosen:
            _table(name, chosen, scale=scale, keep=not asked.quick and len(chosen) == len(sections))


def _table(name: str, sections: Sequence[str], *, scale: float, keep: bool) -> None:
    """Measure some sections of one table in a yard of their own; write it when all of them ran in full."""
    report = Report()
    with running() as yard:
        steps = {
            "memory": lambda: memory.measure(yard, report),
            "submit": lambda: submit.measure(yard, report, seconds=10 * scale),
            "dispatch": lambda: dispatch.measure(yard, report, jobs=int(5000 * scale)),
            "growth": lambda: memory.growth(yard, report, jobs=int(10_000 * scale)),
            "inference": lambda: inference.measure(yard, report, lines=int(400 * scale)),
            "recovery": lambda: recovery.measure(yard, report),
            "calls": lambda: calls.measure(yard, report, scale=scale),
            "batches": lambda: batches.measure(yard, report, lines=int(2000 * scale)),
            "batch-memory": lambda: batch_memory.measure(yard, report, few=int(1000 * scale), many=int(50_000 * scale)),
            "parsing": lambda: parsing.measure(report),
            "compression": lambda: compression.measure(yard, report, scale=scale),
            "tuning": lambda: tuning.measure(yard, report, scale=scale),
        }
        for section in sections:
            steps[section]()
    if keep:
        print(f"\nwritten: {report.write(name=name, title=TITLES[name])}\n")


if __name__ == "__main__":
    main()
