"""yard.json: what a yard tells the world (0600, replaced at every change), and who holds the folder."""

import fcntl
import os
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.embedded.errors import AlreadyRunning
from shared.embedded.layout import PRIVATE_FILE, Layout, write_private


class Phase(StrEnum):
    """How far the yard is."""

    STARTING = "starting"  #: stores, migrations and roles come up
    READY = "ready"  #: /health/ready was green; children are watched and restarted
    STOPPING = "stopping"  #: no more restarts; everything ends in order
    STOPPED = "stopped"  #: no process is left


class YardState(BaseModel):
    """The contents of yard.json."""

    model_config = ConfigDict(extra="ignore")

    url: str
    data: str
    pids: dict[str, list[int]] = Field(default_factory=dict)  #: {role: [pid, …]}
    started_at: datetime
    version: str
    state: Phase
    pid: int  #: of the yard itself
    ports: dict[str, int] = Field(default_factory=dict)  #: kept for the next start
    restarts: dict[str, int] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)  #: how long each phase of the start took

    def save(self, place: Layout) -> None:
        """Replace yard.json."""
        write_private(place.state_file, self.model_dump_json(indent=2) + "\n")


def load(place: Layout) -> YardState | None:
    """The last state of the yard in this folder; None when there never was one, or its file is damaged."""
    try:
        return YardState.model_validate_json(place.state_file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def our_version() -> str:
    """The version of modelyard that is installed."""
    try:
        return version("modelyard")
    except PackageNotFoundError:
        return "0+source"


class FolderLock:
    """One yard a folder: a flock that the kernel frees when its holder dies, however it dies."""

    def __init__(self, place: Layout) -> None:
        self._path = place.lock_file
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode().strip()
            os.close(descriptor)
            raise AlreadyRunning(
                f"A yard is already running in {self._path.parent} (pid {holder or 'unknown'})."
            ) from None
        written = os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        os.ftruncate(descriptor, written)
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None


def holder(place: Layout) -> int | None:
    """The pid of the process that holds this folder, None when nobody does."""
    try:
        descriptor = os.open(place.lock_file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(ValueError):
            return int(os.pread(descriptor, 32, 0))
        return None
    finally:
        os.close(descriptor)
    return None
