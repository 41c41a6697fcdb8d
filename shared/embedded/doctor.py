"""What this host lacks for a yard, one check a line, each with what mends it. Works without a running yard."""

import email.utils
import http.client
import importlib.util
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import psutil

from shared.embedded import binaries, postgres, state
from shared.embedded.errors import YardError
from shared.embedded.layout import Layout
from shared.embedded.ports import is_free
from shared.embedded.roles import READY_S, health
from shared.settings import Settings

GIB = 1024**3


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  #: works, with a limit that is named
    FAIL = "fail"  #: a yard cannot run here


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    level: Level
    text: str
    fix: str = ""


def examine(place: Layout) -> list[Check]:
    """Every check, in the order in which they are worth mending."""
    checks: tuple[Callable[[Layout], Check], ...] = (
        _python, _postgres, _namespace, _redis, _rclone, _folder, _sockets, _disk, _memory, _files,
        _port, _engine, _gpu,
    )  # fmt: skip
    found = [check(place) for check in checks]
    known = state.load(place)
    if known is not None and state.holder(place) is not None:
        found += [_health(known.ports["gateway"]), _clock(known.ports["gateway"])]
    return found


def _python(_place: Layout) -> Check:
    found = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036 - the doctor is asked exactly when something is too old
        return Check("python", Level.FAIL, found, "Install Python 3.11 or newer.")
    return Check("python", Level.OK, f"{found} ({sys.executable})")


def _binary(name: str, find: Callable[[], binaries.Binary]) -> Check:
    try:
        return Check(name, Level.OK, find().shown)
    except YardError as error:
        return Check(name, Level.FAIL, error.message, error.advice)


def _postgres(_place: Layout) -> Check:
    return _binary("postgres", binaries.postgres)


def _rclone(_place: Layout) -> Check:
    return _binary("rclone", binaries.rclone)


def _redis(_place: Layout) -> Check:
    found = _binary("redis", binaries.redis)
    if found.level is Level.OK and (warning := binaries.redis_warning(binaries.redis())):
        return Check("redis", Level.WARN, found.text, warning)
    return found


def _namespace(_place: Layout) -> Check:
    try:
        prefix = postgres.confinement()
    except YardError as error:
        return Check("namespaces", Level.FAIL, error.message, error.advice)
    return Check("namespaces", Level.OK, "PostgreSQL runs in one" if prefix else "not needed: not root")


def _folder(place: Layout) -> Check:
    nearest = next(path for path in (place.data, *place.data.parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Check("folder", Level.FAIL, f"{nearest} is not writable", "Give another folder with --data.")
    if place.data.exists() and place.data.stat().st_uid != os.geteuid():
        return Check("folder", Level.FAIL, f"{place.data} belongs to somebody else", "Run as its owner.")
    if place.data.exists() and place.data.stat().st_mode & 0o077:
        fix = f"chmod 700 {place.data}"
        return Check("folder", Level.WARN, f"{place.data} can be entered by others", fix)
    return Check("folder", Level.OK, str(place.data))


def _sockets(place: Layout) -> Check:
    try:
        if place.run.exists():
            place.check_run()
    except YardError as error:
        return Check("sockets", Level.FAIL, error.message, error.advice)
    if not os.access(place.run.parent, os.W_OK | os.X_OK):
        return Check("sockets", Level.FAIL, f"{place.run.parent} is not writable", f"chmod 1777 {place.run.parent}")
    return Check("sockets", Level.OK, str(place.run))


def _disk(place: Layout) -> Check:
    nearest = next(path for path in (place.data, *place.data.parents) if path.exists())
    free = shutil.disk_usage(nearest).free / GIB
    level = Level.FAIL if free < 0.5 else Level.WARN if free < 5 else Level.OK
    return Check("disk", level, f"{free:.1f} GiB free", "" if level is Level.OK else "Free some space.")


def _memory(_place: Layout) -> Check:
    free = psutil.virtual_memory().available / GIB
    level = Level.FAIL if free < 0.5 else Level.WARN if free < 2 else Level.OK
    return Check("memory", level, f"{free:.1f} GiB available", "" if level is Level.OK else "Free some memory.")


def _files(_place: Layout) -> Check:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 1024:
        return Check("open files", Level.WARN, f"at most {soft}", "ulimit -n 4096")
    return Check("open files", Level.OK, f"at most {soft}")


def _port(place: Layout) -> Check:
    wanted = Settings.model_fields["port"].default
    if state.holder(place) is not None or is_free(wanted):
        return Check("port", Level.OK, f"{wanted}")
    return Check("port", Level.WARN, f"{wanted} is taken", "Another one will be picked; or give --port.")


def _engine(_place: Layout) -> Check:
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        fix = "pip install 'modelyard[engine]'"
        return Check("engine", Level.WARN, f"{' and '.join(missing)} not installed: no model can run", fix)
    return Check("engine", Level.OK, f"torch and transformers; {os.cpu_count()} CPU cores")


def _gpu(_place: Layout) -> Check:
    if shutil.which("nvidia-smi") is None:
        return Check("gpu", Level.OK, "no NVIDIA GPU: work runs on GPU class cpu")
    try:
        command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True).stdout.split("\n")
    except (OSError, subprocess.SubprocessError) as error:
        return Check("gpu", Level.WARN, f"nvidia-smi fails: {error}", "Mend the NVIDIA driver.")
    return Check("gpu", Level.OK, "; ".join(line for line in listed if line))


def _health(port: int) -> Check:
    status, body = health(port)
    if status == http.client.OK:
        return Check("health", Level.OK, "ready")
    said = body.decode(errors="replace")[:300] or "no answer"
    return Check("health", Level.FAIL, said, "modelyard status; modelyard logs")


def _clock(port: int) -> Check:
    """Whether the gateway's clock is ours: webhook signatures and presigned links are refused when it is not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_S)
    skew_s = None
    with suppress(OSError, http.client.HTTPException, TypeError, ValueError):
        connection.request("GET", "/health/live")
        sent = connection.getresponse().getheader("Date")
        skew_s = abs(email.utils.parsedate_to_datetime(sent or "").timestamp() - time.time())
    connection.close()
    if skew_s is None:
        return Check("clock", Level.WARN, "the gateway does not say its time")
    level = Level.OK if skew_s < 5 else Level.WARN
    fix = "" if level is Level.OK else "Synchronise the clock (NTP)."
    return Check("clock", level, f"{skew_s:.0f} s apart", fix)
