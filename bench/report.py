"""The table that a run prints and keeps."""

import json
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Row:
    """One figure beside its aim. `ratio` rows compare two things of the same run."""

    section: str
    what: str
    value: float
    unit: str
    aim: str = ""
    reached: bool | None = None
    note: str = ""


@dataclass
class Report:
    """Rows of one run, in order."""

    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Keep a row and print it at once, so that a long run shows where it is."""
        self.rows.append(row)
        print(_line(row), flush=True)

    def write(self, folder: Path = RESULTS, *, name: str, title: str) -> Path:
        """Write `NAME.md` and `NAME.json`; returns the table's path."""
        folder.mkdir(parents=True, exist_ok=True)
        machine = (
            f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB, Python {platform.python_version()}"
        )
        made = datetime.now(UTC).isoformat(timespec="seconds")
        (folder / f"{name}.json").write_text(
            json.dumps({"made": made, "machine": machine, "rows": [asdict(row) for row in self.rows]}, indent=1) + "\n"
        )
        table = folder / f"{name}.md"
        head = f"# {title}\n\n{made}, {machine}. Ratios are of one run, side by side.\n\n"
        lines = ["| section | what | value | aim | reached | note |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {r.section} | {r.what} | {r.value:,.4g} {r.unit} | {r.aim} | {_verdict(r)} | {r.note} |"
            for r in self.rows
        ]
        table.write_text(head + "\n".join(lines) + "\n")
        return table


def _verdict(row: Row) -> str:
    return {None: "", True: "yes", False: "no"}[row.reached]


def _line(row: Row) -> str:
    aim = f"  (aim {row.aim}: {_verdict(row) or '-'})" if row.aim else ""
    return f"{row.section:10} {row.what:58} {row.value:>12,.4g} {row.unit:10}{aim}"
