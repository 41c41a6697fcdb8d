"""The kind table.

Adding a job kind is one row here, a spec in `shared/contracts`, an operation in `workers/operations`, and a
forge module if it needs torch. Rows are import paths, so that a kind's own service may use the job services.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.orm import Session

from services.jobs.plan import Needs
from shared.contracts.jobs import Pool
from shared.errors import InvalidField
from shared.settings import settings

CALL = "call"  #: written by gateways, never submitted
KINDS = {
    "batch": "services.batches.kind",
    "calibration": "services.compression.calibration",
    "document_set": "services.documents.kind",
    "evaluation": "services.compression.evaluation",
    "import_model": "services.imports.kind",
    CALL: "services.calls.kind",
    "inference": "services.inference.kind",
    "probe": "services.probe.kind",
    "quantization": "services.compression.quantization",
}


@dataclass(frozen=True)
class Prepared:
    """What a kind makes of a checked spec, before anything is written."""

    spec: dict[str, Any]  #: as stored: no lines, no defaults left open
    needs: Needs | None  #: None: known only when the courier has read the lines; it plans the children
    planned_gpu_s: float  #: cost estimate that fair sharing charges until the real figure is known
    total: int | None = None
    unit: str = "lines"
    lines: tuple[dict[str, Any], ...] = ()  #: inputs of `job_items`
    job_lines: int = 1000  #: a job of more lines than this becomes a parent,
    child_lines: int = 1000  #: with children of so many,
    child_spec: dict[str, Any] | None = None  #: and with this spec; None: the parent's
    deadline_s: float | None = None  #: seconds from now; an earlier deadline of the request's own stays
    expand: bool = False  #: the courier reads the lines from a file and makes the child jobs
    extend: Callable[[Session, UUID], None] | None = None  #: writes the kind's own columns for a job id
    extend_child: Callable[[Session, UUID], None] | None = None  #: the same for a child's; None: as for the parent's


@dataclass(frozen=True)
class Kind:
    """One row of the table."""

    name: str
    spec: type[BaseModel]
    pool: Callable[[Any], Pool]
    prepare: Callable[[Session, UUID, Any], Prepared]  #: (session, tenant_id, spec) → Prepared; raises our errors
    operation: str  #: module in `workers` with `async def run(...)`; see workers/operations
    restore: Callable[[dict[str, Any], tuple[dict[str, Any], ...]], Any] | None = None
    #: (stored spec, of a child its parent's; inputs of its lines) → spec, for `retry`; None: it is the stored spec


def _rows() -> dict[str, str]:
    extra = {path.rsplit(".", 1)[-1]: path for path in settings().extra_kinds}
    return KINDS | extra


def names() -> list[str]:
    """Names of every kind that may be submitted."""
    return sorted(_rows().keys() - {CALL})


@cache
def kind(name: str) -> Kind:
    """The row of `name`.

    Raises:
        InvalidField: there is no such kind (`param="kind"`).
    """
    path = _rows().get(name)
    if path is None:
        msg = f"unknown kind {name!r}: use one of {', '.join(names())}"
        raise InvalidField(msg, param="kind")
    row = import_module(path).KIND
    assert isinstance(row, Kind)
    return row
