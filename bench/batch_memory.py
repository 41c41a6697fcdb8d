"""Memory and time of what surrounds a batch's lines: a thousand short ones, then fifty thousand."""

from pathlib import Path
from uuid import UUID

from sqlalchemy import text

from bench.batches import create, job_of, load, output_of, upload
from bench.report import Report, Row
from bench.yard import Yard

AIMS = {"gateway": 1.1, "worker": 1.1, "courier": None}  #: most at the large batch beside the small one
PATH = "/v1/completions"
MODEL = "yard-tiny"
RESET_PEAK = "5"  # proc(5), clear_refs: VmHWM begins again at what is resident now


def measure(yard: Yard, report: Report, *, few: int, many: int) -> None:
    """The most that each role held while a small and a large batch went through, engines apart; and the ends' times."""
    _peaks(yard, few, salt=0)  # imports, pools and caches are there before anything counts
    small, large = (_peaks(yard, lines, salt=lines) for lines in (few, many))
    for role, aim in AIMS.items():
        report.add(Row("batches", f"{role}, peak with {few:,} lines", small[role], "MB"))
        report.add(Row("batches", f"{role}, peak with {many:,} lines", large[role], "MB"))
        ratio = large[role] / small[role]
        what, note = f"{role}, {many:,} lines beside {few:,}", f"{large[role] - small[role]:+.1f} MB"
        told, reached = ("", None) if aim is None else (f"≤ {aim}", ratio <= aim)
        report.add(Row("batches", what, ratio, "×", told, reached, note))
    _times(yard, report, lines=many)


def _peaks(yard: Yard, lines: int, *, salt: int) -> dict[str, float]:
    """Upload, run and download one batch; the peak of each role in MB."""
    _forget_peaks(yard)
    bodies = ({"prompt": f"{salt}: line {n}", "max_tokens": 1, "temperature": 0} for n in range(lines))
    batch = create(yard, upload(yard, bodies, model=MODEL, path=PATH), path=PATH)
    yard.finished(str(job_of(batch)), timeout_s=3600)
    with yard.client.stream("GET", f"/v1/files/{output_of(yard, batch)}/content") as answer:
        answer.raise_for_status()
        for _ in answer.iter_bytes():
            pass
    return {role: sum(_peak_mb(pid) for pid in yard.pids[role]) for role in AIMS}


def _forget_peaks(yard: Yard) -> None:
    for role in AIMS:
        for pid in yard.pids[role]:
            Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)


def _peak_mb(pid: int) -> float:
    """The most that was resident since it was forgotten. An engine is a process of its own, and is not counted."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


def _times(yard: Yard, report: Report, *, lines: int) -> None:
    """The newest batch from accepted to its children, its lines' time, and from its last child to its files."""
    with yard.database.transaction() as session:
        batch: UUID = session.execute(
            text("SELECT id FROM jobs WHERE kind = 'batch' AND parent_id IS NULL ORDER BY id DESC LIMIT 1")
        ).scalar_one()
        expanded, ran, merged = session.execute(
            text(
                """SELECT EXTRACT(EPOCH FROM parent.started_at - parent.created_at)::float8,
                          EXTRACT(EPOCH FROM max(child.finished_at) - parent.started_at)::float8,
                          EXTRACT(EPOCH FROM parent.finished_at - max(child.finished_at))::float8
                   FROM jobs parent JOIN jobs child ON child.parent_id = parent.id
                   WHERE parent.id = :id GROUP BY parent.id"""
            ),
            {"id": batch},
        ).one()
    report.add(Row("batches", f"{lines:,} lines: read, checked, sorted and made into jobs", expanded, "s", note=load()))
    report.add(Row("batches", f"{lines:,} lines of one token each: run", lines / ran, "lines/s", note=load()))
    report.add(Row("batches", f"{lines:,} lines: merged into the output file", merged, "s", note=load()))
