"""A forge process: the one JSON file it is started with, and the JSON lines that it writes to its stdout.

A forge is started as `python -I -m workers.forge.<kind> spec.json` with an empty environment, its worker's pipe as
stdin and the folder of its attempt as working directory. SIGTERM asks for a checkpoint and an end; the end of file on
stdin means that the worker is dead. Paths in messages are below `out`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter

from shared.contracts.jobs import Contract, JobError, Text

LINE_BYTES = 1024**2  #: longest message: a result may name every layer of a model
CHECKPOINT_FORMAT: Literal[1] = 1  #: grows when checkpoints become others: nobody goes on from one of another format
EXIT_STOPPED = 64  #: exit status: told to stop; the last checkpoint is where to go on
EXIT_FAILED = 70  #: exit status: an `error` message said why
EXIT_ORPHANED = 75  #: exit status: the worker is gone


class Resume(Contract):
    """Where to go on: a checkpoint of an earlier attempt, its files below `folder`, every digest checked."""

    step: NonNegativeInt
    folder: Path


class ForgeSpec(BaseModel):
    """Everything a forge is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: dict[str, Any]  #: the job's own spec
    inputs: Path
    out: Path
    fingerprint: str  #: a checkpoint serves only attempts of the same fingerprint
    resume: Resume | None = None
    threads: PositiveInt = 1
    nice: NonNegativeInt = 0
    parent_pid: PositiveInt


class ProgressMessage(Contract):
    """How far the work is."""

    type: Literal["progress"] = "progress"
    done: NonNegativeInt
    total: NonNegativeInt | None = None
    unit: str = "steps"


class MetricMessage(Contract):
    """Figures of one step (loss, learning rate …)."""

    type: Literal["metric"] = "metric"
    step: NonNegativeInt
    values: dict[str, float]


class SettingMessage(Contract):
    """How the work is done, once everything that was left open is decided; said before the first step.

    Its contract belongs to the kind: `shared.contracts.tuning.Setting`.
    """

    type: Literal["setting"] = "setting"
    setting: dict[str, Any]


class LogMessage(Contract):
    """A line for the job's log."""

    type: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"] = "info"
    message: Text


class CheckpointMessage(Contract):
    """A folder below `out` holds a checkpoint; it is complete and synced. The worker deletes it once it is stored."""

    type: Literal["checkpoint"] = "checkpoint"
    step: NonNegativeInt
    folder: str
    metrics: dict[str, float] = Field(default_factory=dict)  #: the newest figures of its step
    best: bool = False  #: no checkpoint so far was better


class ArtifactMessage(Contract):
    """A file below `out` is a result; a folder is one result with a manifest."""

    type: Literal["artifact"] = "artifact"
    name: str
    path: str
    media_type: str = "application/octet-stream"


class DoneMessage(Contract):
    """The work is done; every artifact has been named before.

    `result` is what the worker records beside the artifacts; its contract belongs to the kind.
    """

    type: Literal["done"] = "done"
    result: dict[str, Any] = Field(default_factory=dict)


class ErrorMessage(Contract):
    """The work went wrong."""

    type: Literal["error"] = "error"
    error: JobError


Message = (
    ProgressMessage
    | MetricMessage
    | SettingMessage
    | LogMessage
    | CheckpointMessage
    | ArtifactMessage
    | DoneMessage
    | ErrorMessage
)
MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])
