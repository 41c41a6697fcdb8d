"""The parent of an embedded yard: brings all up, restarts what dies, takes all down in order."""

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from shared.clock import utc_now
from shared.embedded import binaries, environment, ports, process, remains, state
from shared.embedded.children import Children, Interrupted
from shared.embedded.credentials import Credentials
from shared.embedded.errors import CannotStart
from shared.embedded.layout import Layout
from shared.embedded.listening import Signals, listen
from shared.embedded.process import Role
from shared.embedded.roles import NAMES, ROOT, STOP_ORDER, module_argv, python_roles
from shared.embedded.state import FolderLock, Phase, YardState
from shared.embedded.stores import PORTS, Stores
from shared.settings import Settings

log = logging.getLogger("modelyard.yard")

HOST = "127.0.0.1"
START_S = 120.0  # longest start of the stores, of the migrations, and of the roles, each


@dataclass(frozen=True)
class Options:
    """What `modelyard up` was asked."""

    port: int | None = None  #: None: the port of the last run, else the setting's default, else any free one
    workers: int = 1


class Yard:
    """One run of the yard in one folder. Everything happens on the main thread."""

    def __init__(self, place: Layout, *, options: Options, given: Mapping[str, str]) -> None:
        self._place = place
        self._options = options
        self._given = given
        self._overrides = environment.overrides(given)

    def run(self) -> None:
        """Run until a stop signal. Raises YardError when it cannot start; nothing is left running then."""
        self._place.create_data()
        with FolderLock(self._place), self._sockets(), Signals() as signals:
            process.adopt_orphans()
            if ended := remains.end(self._place):
                log.warning("ended %d processes that a killed yard had left", ended)
            before = state.load(self._place)
            with self._listen(before.ports if before else {}) as listener:
                self._state = self._first_state(listener, before.ports if before else {})
                self._children = Children(signals, changed=self._record)
                try:
                    self._bring_up(listener)
                    self._children.watch()
                except Interrupted:
                    log.info("stopping")
                finally:
                    listener.close()  # new callers are refused, not queued
                    self._take_down()

    @contextmanager
    def _sockets(self) -> Iterator[None]:
        self._place.create_run()
        try:
            yield
        finally:
            self._place.remove_run()

    def _bring_up(self, listener: socket.socket) -> None:
        if warning := binaries.redis_warning(binaries.redis()):
            log.warning(warning)
        stores = Stores(
            place=self._place,
            credentials=Credentials.load(self._place),
            ports=self._state.ports,
            bucket=self._overrides.get("s3_bucket", Settings.model_fields["s3_bucket"].default),
        )
        environment.write(self._place, self._settings(stores))
        with self._timed("stores"):
            bare = environment.base(self._place, given=self._given)
            self._children.start(stores.roles(env=bare), timeout_s=START_S)
        env = environment.python(self._place, given=self._given)
        with self._timed("bootstrap"):
            self._children.run_once(self._bootstrap(env), timeout_s=START_S)
        with self._timed("roles"):
            self._children.start(self._roles(env, listener), timeout_s=START_S)
        self._enter(Phase.READY)
        spent = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self._state.seconds.items())
        log.info("ready at %s (%s); Ctrl-C or `modelyard down` stops it", self._state.url, spent)

    def _take_down(self) -> None:
        self._enter(Phase.STOPPING)
        self._children.stop(STOP_ORDER)
        remains.end(self._place)
        self._enter(Phase.STOPPED)
        log.info("stopped")

    def _listen(self, before: Mapping[str, int]) -> socket.socket:
        """The gateway's socket, open from now on. Raises CannotStart when the wanted port is taken."""
        wanted = self._options.port
        if wanted is not None:
            try:
                return listen(HOST, wanted)
            except OSError as error:
                raise CannotStart(f"Port {wanted}: {error.strerror}.", fix="Give another --port.") from error
        for port in (before.get("gateway"), Settings.model_fields["port"].default):
            if port and ports.is_free(port):
                return listen(HOST, port)
        return listen(HOST, ports.pick(("gateway",), keep={})["gateway"])

    def _first_state(self, listener: socket.socket, before: Mapping[str, int]) -> YardState:
        port = listener.getsockname()[1]
        return YardState(
            url=f"http://{HOST}:{port}",
            data=str(self._place.data),
            started_at=utc_now(),
            version=state.our_version(),
            state=Phase.STARTING,
            pid=os.getpid(),
            ports={**ports.pick(PORTS, keep=before), "gateway": port},
        )

    def _settings(self, stores: Stores) -> dict[str, str]:
        """Setting → value for every process of ours; what the caller of `up` set comes last."""
        return {
            "environment": "embedded",
            "data_dir": str(self._place.data),
            "run_dir": str(self._place.run),
            "host": HOST,
            "port": str(self._state.ports["gateway"]),
            "public_url": self._state.url,
            **stores.settings(),
            **self._overrides,
        }

    def _bootstrap(self, env: Mapping[str, str]) -> Role:
        """Migrations, the first tenant and admin key, the packaged models: one process, before all others."""
        return Role(
            name="bootstrap",
            argv=(*module_argv("services.cli.main"), "bootstrap"),
            env=env,
            log=self._place.log("bootstrap"),
            cwd=ROOT,
            parent_death=signal.SIGTERM,
        )

    def _roles(self, env: Mapping[str, str], listener: socket.socket) -> list[Role]:
        grace = self._overrides.get("drain_grace_s", Settings.model_fields["drain_grace_s"].default)
        return python_roles(
            self._place,
            env=env,
            listener=listener.fileno(),
            port=self._state.ports["gateway"],
            workers=self._options.workers,
            drain_grace_s=float(grace),
        )

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begun = time.monotonic()
        log.info("%s …", phase)
        yield
        self._state.seconds[phase] = round(time.monotonic() - begun, 2)
        self._record()

    def _enter(self, phase: Phase) -> None:
        self._state.state = phase
        self._record()

    def _record(self) -> None:
        self._state.pids = self._children.pids(NAMES)
        self._state.restarts = self._children.restarts()
        self._state.save(self._place)
