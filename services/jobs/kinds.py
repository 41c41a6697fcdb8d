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

from services.jobs.plan import Needs, Plan
from shared.contracts.jobs import Pool
from shared.db.models import Job
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
    "merge": "services.tuning.merging",
    "probe": "services.probe.kind",
    "quantization": "services.compression.quantization",
    "tuning": "services.tuning.tuning",
}


@dataclass(frozen=True)
class Advice:
    """What is known beforehand of a run on the devices that were chosen for it."""

    planned_gpu_s: float  #: a better estimate than the one that no class was known for
    told: dict[str, Any]  #: to the caller, as JSON


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
    advise: Callable[[Plan], Advice] | None = None  #: once it is placed; raises our errors where it cannot run there
    extend: Callable[[Session, UUID], None] | None = None  #: writes the kind's own columns for a job id
    extend_child: Callable[[Session, UUID], None] | None = None  #: the same for a child's; None: as for the parent's


@dataclass(frozen=True)
class Result:
    """What a job has left beside its artifacts; what it was not to make, or failed to make, is None."""

    job_id: UUID
    model_id: UUID | None = None  #: the version that it registered, or that it was to look at
    artifact_id: UUID | None = None  #: the one that says most
    evaluation_id: UUID | None = None
    calibration_id: UUID | None = None  #: that was made, found or used
    file_id: UUID | None = None  #: figures of a run, step by step
    figures: dict[str, Any] | None = None  #: of the whole run, as JSON


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
    made: Callable[[Session, UUID, UUID], UUID | None] | None = None
    #: (session, tenant_id, job_id) → id of the version that a job has made, None where it has not; None: it makes none
    result: Callable[[Session, Job], Result | None] | None = None
    #: what a job has come to so far, for `GET /v1/jobs/{id}/result`; None: no more than its artifacts
    makes_adapter: Callable[[Any], bool] | None = None  #: spec → whether that is an adapter; None: it never is
    adapters: bool | None = None  #: whether `$result` is to be an adapter (True) or a whole model (False); None: either
    models: tuple[str, ...] = ("model",)  #: fields of the spec that name a model: `$result` may stand there, see `late`
    foresee: Callable[[Session, UUID, Any], None] | None = None
    #: (session, tenant_id, spec with `$result`): judges what needs no such model, at submit; raises our errors
    max_lost: int = 0  #: attempts that may be lost in a row without getting further; the setting, where it is more


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
