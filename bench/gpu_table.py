"""The table of `bench.gpu_compression`."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.watching import SMI

GIB = 1 << 30
HEADS = ("variant", "process, s", "quantized in, s", "GPU, GiB", "torch, GiB", "host, GiB", "checkpoint, GiB", "note")


@dataclass
class Found:
    """A row of the table."""

    variant: str
    wall_s: float | None = None  #: of the process, from its start to its end
    phases: dict[str, float] = field(default_factory=dict)  #: seconds of each, and moments since the start (`… after`)
    quantize_s: float | None = None  #: llm-compressor's part, from the loaded model to the saved one
    gpu_bytes: dict[int, int] = field(default_factory=dict)  #: by the driver, contexts and caches included
    torch_bytes: int | None = None  #: the most that torch gave out on one device
    host_bytes: int = 0
    checkpoint_bytes: int = 0
    problem: str = ""


def write(rows: Sequence[Found], folder: Path, *, name: str, about: Mapping[str, Any]) -> None:
    """Write `NAME.json` and `NAME.md`."""
    made, where = datetime.now(UTC).isoformat(timespec="seconds"), machine()
    kept = {"made": made, "machine": where, **about, "rows": [asdict(row) for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|", *map(_cells, rows)]
    (folder / f"{name}.md").write_text(f"{made}, {where}\n\n" + "\n".join(lines) + "\n")


def line(row: Found) -> str:
    """A row for people who wait."""
    return f"{row.variant:14} {_figure(row.wall_s):>8} s  {row.problem or _figure(row.quantize_s)}"


def machine() -> str:
    """GPUs, cores and Python, as a table says where it was made."""
    query = [SMI, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, check=False).stdout if shutil.which(SMI) else ""
    gpus = "; ".join(told.splitlines()) or "no GPU"
    return f"{gpus}; {os.cpu_count()} cores, Python {platform.python_version()}"


def _cells(row: Found) -> str:
    note = row.problem or "; ".join(f"{name} {seconds:.1f}" for name, seconds in row.phases.items())
    gpus = " + ".join(f"{taken / GIB:.1f}" for taken in row.gpu_bytes.values() if taken > GIB // 10)
    cells = (
        row.variant,
        _figure(row.wall_s),
        _figure(row.quantize_s),
        gpus,
        _figure(row.torch_bytes and row.torch_bytes / GIB),
        _figure(row.host_bytes / GIB),
        _figure(row.checkpoint_bytes / GIB),
        note.replace("|", "/"),
    )
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
