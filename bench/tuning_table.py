"""The table of `bench.gpu_tuning`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.gpu_table import GIB, machine

HEADS = ("variant", "tokens/s", "MFU", "step, s", "torch, GiB", "GPU, GiB", "process, s", "÷ best by hand", "note")


@dataclass
class Found:
    """A row of the table."""

    variant: str
    tokens_s: float | None = None  #: median over steps, of all devices together
    mfu: float | None = None  #: of the devices' dense peaks; what is computed again does not count
    step_s: float | None = None
    torch_bytes: int | None = None  #: the most that torch gave out on one device
    gpu_bytes: dict[int, int] = field(default_factory=dict)  #: by the driver, contexts and caches included
    wall_s: float | None = None  #: of the process
    ratio: float | None = None
    aim: str = ""
    reached: bool | None = None
    note: str = ""


def write(rows: Sequence[Found], folder: Path, *, name: str, about: Mapping[str, Any]) -> None:
    """Write `NAME.json` and `NAME.md`."""
    made, where = datetime.now(UTC).isoformat(timespec="seconds"), machine()
    kept = {"made": made, "machine": where, **about, "rows": [asdict(row) for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|", *map(_cells, rows)]
    (folder / f"{name}.md").write_text(f"{made}, {where}\n\n" + "\n".join(lines) + "\n")


def line(row: Found) -> str:
    """A row for people who wait."""
    return f"{row.variant:20} {_figure(row.tokens_s, ',.0f'):>10} tokens/s  {row.note}"


def _cells(row: Found) -> str:
    gpus = " + ".join(f"{taken / GIB:.1f}" for taken in row.gpu_bytes.values() if taken > GIB // 10)
    ratio = _figure(row.ratio, ".3f") + (f" (aim {row.aim})" if row.aim else "")
    cells = (
        row.variant,
        _figure(row.tokens_s, ",.0f"),
        _figure(row.mfu, ".1%"),
        _figure(row.step_s, ".3f"),
        _figure(row.torch_bytes and row.torch_bytes / GIB, ".1f"),
        gpus,
        _figure(row.wall_s, ".1f"),
        ratio,
        row.note.replace("|", "/"),
    )
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
