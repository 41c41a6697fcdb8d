"""What other processes do to a yard: launch it, ask how it is, restart a role, stop it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import orjson
import psutil

from shared.embedded import remains, state
from shared.embedded.errors import AlreadyRunning, CannotStart, NotRunning, YardError
from shared.embedded.layout import Layout, open_log
from shared.embedded.roles import NAMES, ROOT, health, is_ready
from shared.embedded.state import FolderLock, Phase, YardState
from shared.embedded.yard import START_S, Options

POLL_S = 0.05
STOP_S = 240.0  # more than every grace in a row: after that the yard itself is killed
BURIAL_S = 3.0
HANDOVER_S = 45.0  # how long a worker may take to hand its engines over before it is asked to stop


@dataclass(frozen=True)
class Running:
    """One process of a role. `memory_bytes` is resident, shared pages included."""

    role: str
    pid: int | None
    memory_bytes: int = 0
    up_s: float = 0
    restarts: int = 0


@dataclass(frozen=True)
class Report:
    """How a yard is. `health` is the body of /health/ready, None when nobody answers."""

    state: Phase
    ready: bool
    url: str
    data: str
    pid: int | None
    version: str
    processes: tuple[Running, ...]
    health: object


def argv(place: Layout, options: Options) -> list[str]:
    """The command of the yard's own process."""
    port = [] if options.port is None else ["--port", str(options.port)]
    where = ["--data", str(place.data), "--workers", str(options.workers)]
    return [sys.executable, "-m", "shared.embedded", *where, *port]


def become(place: Layout, options: Options) -> None:
    """Turn the calling process into the yard; never returns. Raises AlreadyRunning."""
    _refuse_second(place)
    os.chdir(ROOT)
    os.execv(sys.executable, argv(place, options))  # noqa: S606 - a fixed list of arguments, no shell


def launch(place: Layout, options: Options, *, given: Mapping[str, str], progress: Callable[[str], None]) -> YardState:
    """Start a yard in the background and wait until it is ready. Raises AlreadyRunning, CannotStart.

    `progress` is told each line of the yard's log. A yard that does not become ready is stopped again.
    """
    _refuse_second(place)
    place.create_data()
    log = open_log(place.log("yard"))
    begin = os.fstat(log).st_size
    with place.log("yard").open(errors="replace") as lines:
        lines.seek(begin)
        yard = subprocess.Popen(
            argv(place, options),
            cwd=ROOT,
            env=dict(given),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        os.close(log)
        try:
            return _await_launch(place, yard, tell=lambda: _tell(lines.read(), progress))
        except BaseException:
            yard.terminate()
            yard.wait()
            _tell(lines.read(), progress)
            raise


def report(place: Layout) -> Report:
    """How the yard in this folder is. Raises NotRunning when there never was one."""
    known = state.load(place)
    if known is None:
        raise NotRunning(f"There is no yard in {place.data}.")
    holder = state.holder(place)
    status, body = health(known.ports["gateway"]) if holder else (0, b"")
    living = [_look(role, pid, known) for role in NAMES for pid in known.pids.get(role, [])]
    return Report(
        state=known.state if holder else Phase.STOPPED,
        ready=status == 200,
        url=known.url,
        data=known.data,
        pid=holder,
        version=known.version,
        processes=tuple(process for process in living if process.pid is not None),
        health=_json(body),
    )


def restart(place: Layout, role: str) -> list[int]:
    """End one role's processes; the yard starts them again. Returns the new pids.

    A worker gets SIGHUP: it hands its engines over to the next one. Raises NotRunning, YardError.
    """
    if role not in NAMES:
        raise YardError(f"There is no role {role!r}.", fix=f"Roles: {', '.join(NAMES)}.")
    known = state.load(place)
    if known is None or state.holder(place) is None:
        raise NotRunning(f"No yard is running in {place.data}.")
    old = known.pids.get(role, [])
    asked = {"worker": signal.SIGHUP, "postgres": signal.SIGINT}.get(role, signal.SIGTERM)
    for number in (asked, signal.SIGTERM, signal.SIGKILL):
        for pid in old:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if fresh := _await_new(place, role, old=old, port=known.ports["gateway"]):
            return fresh
    raise YardError(f"{role} did not come back.", fix=f"Read {place.log(role)}.")


def stop(place: Layout) -> bool:
    """Stop the yard in order; returns when every process is gone, and whether there was anything to stop.

    A yard that was killed is cleared up after: what it left is ended.
    """
    if not place.lock_file.exists():
        return False
    running = state.holder(place)
    known = state.load(place)
    listed = {pid for pids in known.pids.values() for pid in pids} if known else set()
    if running is not None:
        _end_yard(place, running)
    with FolderLock(place):
        ended = remains.end(place)
        place.remove_run()
        known = state.load(place)
        if known is not None and (ended or known.state is not Phase.STOPPED):
            known.model_copy(update={"state": Phase.STOPPED, "pids": {name: [] for name in NAMES}}).save(place)
    _await_burial(listed | ({running} if running else set()))
    return running is not None or ended > 0


def _refuse_second(place: Layout) -> None:
    if (pid := state.holder(place)) is not None:
        raise AlreadyRunning(f"A yard is already running in {place.data} (pid {pid}).")


def _await_launch(place: Layout, yard: subprocess.Popen[bytes], *, tell: Callable[[], None]) -> YardState:
    deadline = time.monotonic() + 3 * START_S
    while time.monotonic() < deadline:
        tell()
        known = state.load(place)
        if known is not None and known.pid == yard.pid and known.state is Phase.READY:
            return known
        if yard.poll() is not None:
            raise CannotStart("The yard did not start.", fix=f"Read {place.log('yard')}; run `modelyard doctor`.")
        time.sleep(POLL_S)
    raise CannotStart("The yard is not ready.", fix=f"Read {place.log('yard')}; run `modelyard doctor`.")


def _tell(text: str, progress: Callable[[str], None]) -> None:
    for line in text.splitlines():
        progress(line)


def _look(role: str, pid: int, known: YardState) -> Running:
    try:
        process = psutil.Process(pid)
        return Running(
            role=role,
            pid=pid,
            memory_bytes=process.memory_info().rss,
            up_s=round(time.time() - process.create_time(), 1),
            restarts=known.restarts.get(role, 0),
        )
    except psutil.Error:
        return Running(role=role, pid=None)


def _await_new(place: Layout, role: str, *, old: list[int], port: int) -> list[int]:
    """The role's new pids once all have changed and the yard is ready; none when it takes too long."""
    deadline = time.monotonic() + HANDOVER_S
    while time.monotonic() < deadline:
        known = state.load(place)
        fresh = known.pids.get(role, []) if known else []
        if len(fresh) >= len(old) and not set(fresh) & set(old) and is_ready(port):
            return fresh
        time.sleep(POLL_S)
    return []


def _end_yard(place: Layout, pid: int) -> None:
    deadline = time.monotonic() + STOP_S
    os.kill(pid, signal.SIGTERM)
    while _is_alive(pid) and state.holder(place) == pid:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)
    while _is_alive(pid):
        time.sleep(POLL_S)


def _await_burial(pids: set[int]) -> None:
    """Orphans are collected by init; some take their time. After BURIAL_S a dead process is left to it."""
    deadline = time.monotonic() + BURIAL_S
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _is_alive(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def _json(body: bytes) -> object:
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(body)
    return None
