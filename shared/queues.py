"""Queues and the GPU classes that they belong to.

A queue is (GPU class, pool), spelled `h200.serve`; `control` is the courier's and has no GPU. The class table
is `shared/gpu_classes.toml`, extended or replaced by the TOML file that `settings.gpu_classes_file` names:

    replace = false              # true drops the built-in table

    [classes.h200]               # a known class: only what differs
    price_per_gpu_hour = 2.10

    [classes.b200]               # a new one: everything
    memory_gib = 178.4
    compute_capability = "10.0"
    dtypes = ["bf16", "fp8"]
    devices_per_host = 8
    price_per_gpu_hour = 5.50
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.contracts.jobs import Pool
from shared.errors import UnknownClass
from shared.settings import settings

CONTROL = "control"  #: the courier's queue
AUTO = "auto"  #: in a request: the planner chooses the class
GIB = 2**30

Dtype = Literal["fp32", "bf16", "fp16", "fp8", "fp8-kv", "int8", "int4", "nvfp4"]
ClassName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


class GpuClass(BaseModel):
    """A kind of device that hosts have: what one of them holds, runs and costs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassName
    memory_gib: float = Field(gt=0)
    compute_capability: str | None = Field(None, pattern=r"^\d+\.\d$")
    dtypes: tuple[Dtype, ...] = Field(min_length=1)
    devices_per_host: int = Field(ge=1, le=64)
    price_per_gpu_hour: float = Field(ge=0)

    @property
    def memory_bytes(self) -> int:
        """Memory of one device, in bytes."""
        return int(self.memory_gib * GIB)


class BadClassFile(ValueError):
    """The GPU class file cannot be used; the message names the file and the key."""


def read_classes(path: Path | None = None) -> Mapping[str, GpuClass]:
    """The built-in table, with what the file at `path` adds, changes or replaces; by name.

    Raises:
        BadClassFile: the file cannot be read, or a key is unknown, missing or wrong.
    """
    table = _tables(resources.files("shared").joinpath("gpu_classes.toml").read_text(), "gpu_classes.toml")[1]
    source = "gpu_classes.toml"
    if path is not None:
        source = str(path)
        replace, own = _tables(_text(path), source)
        table = own if replace else table | {name: table.get(name, {}) | row for name, row in own.items()}
    if not table:
        raise BadClassFile(f"{source}: classes: there is none, so no job could ever run")
    return MappingProxyType({name: _class(name, row, source) for name, row in table.items()})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadClassFile(f"{path}: {error}") from error


def _tables(text: str, source: str) -> tuple[bool, dict[str, dict[str, Any]]]:
    """(replace, {class: its keys}) of a class file."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadClassFile(f"{source}: {error}") from error
    replace, classes = found.pop("replace", False), found.pop("classes", {})
    if found:
        raise BadClassFile(f"{source}: {min(found)}: unknown key (known: replace, classes)")
    if not isinstance(replace, bool):
        raise BadClassFile(f"{source}: replace: must be true or false")
    if not isinstance(classes, dict):
        raise BadClassFile(f"{source}: classes: must hold tables like [classes.h200]")
    for name, row in classes.items():
        if not isinstance(row, dict):
            raise BadClassFile(f"{source}: classes.{name}: must be a table, [classes.{name}]")
    return replace, classes


def _class(name: str, row: dict[str, Any], source: str) -> GpuClass:
    if name in (AUTO, CONTROL):
        raise BadClassFile(f"{source}: classes.{name}: the name is taken")
    if "name" in row:
        raise BadClassFile(f"{source}: classes.{name}.name: unknown key (the table's own name counts)")
    try:
        return GpuClass.model_validate({"name": name, **row})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        key = f"classes.{name}" if path == "name" else f"classes.{name}.{path}"
        raise BadClassFile(f"{source}: {key}: {first['msg']}") from error


@cache
def gpu_classes() -> Mapping[str, GpuClass]:
    """The class table of this deployment, by name; read once."""
    return read_classes(settings().gpu_classes_file)


def gpu_class(name: str) -> GpuClass:
    """The class called `name`.

    Raises:
        UnknownClass: there is none (`param="gpu_class"`).
    """
    known = gpu_classes()
    if name not in known:
        raise UnknownClass(f"unknown GPU class {name!r}: use {AUTO} or one of {', '.join(known)}", param="gpu_class")
    return known[name]


def queue_name(gpu_class: str, pool: Pool) -> str:
    """The queue of a class's pool: `h200.serve`."""
    return f"{gpu_class}.{pool}"


def split_queue(queue: str) -> tuple[str, Pool]:
    """(class, pool) of a queue's name.

    Raises:
        ValueError: it is not `class.pool`; `control` has no class.
    """
    name, dot, pool = queue.rpartition(".")
    if not dot or not name:
        raise ValueError(f"{queue!r} is not the queue of a GPU class")
    return name, Pool(pool)


def queue_names() -> list[str]:
    """Every queue there is: two for each class, and `control`."""
    return [queue_name(name, pool) for name in gpu_classes() for pool in Pool] + [CONTROL]
