"""`make bench`: a table of ratios from one run, written to `bench/results/`."""

import argparse

from bench import dispatch, inference, memory, recovery, submit
from bench.report import Report
from bench.yard import running

SECTIONS = ("memory", "submit", "dispatch", "growth", "inference", "recovery")


def main() -> None:
    """Bring a yard up, measure section by section, take it down, write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, to see that it runs; writes nothing")
    asked = parser.parse_args()
    scale = 0.1 if asked.quick else 1.0
    report = Report()
    with running() as yard:
        steps = {
            "memory": lambda: memory.measure(yard, report),
            "submit": lambda: submit.measure(yard, report, seconds=10 * scale),
            "dispatch": lambda: dispatch.measure(yard, report, jobs=int(5000 * scale)),
            "growth": lambda: memory.growth(yard, report, jobs=int(10_000 * scale)),
            "inference": lambda: inference.measure(yard, report, lines=int(400 * scale)),
            "recovery": lambda: recovery.measure(yard, report),
        }
        for name in SECTIONS:  # memory first: it wants a yard without an engine
            if name in asked.only:
                steps[name]()
    if not asked.quick and tuple(asked.only) == SECTIONS:
        print(f"\nwritten: {report.write()}")


if __name__ == "__main__":
    main()
