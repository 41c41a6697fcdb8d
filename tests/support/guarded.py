"""Foreign servers in their guards, started as a yard starts them: by a launcher's command."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil

from shared.contracts.engine import EngineConfig, EngineStats
from shared.settings import Settings
from tests.support.polling import wait_until
from workers.runtime.launch.kinds import launcher
from workers.runtime.launch.order import Command, Order

ROOT = Path(__file__).parents[2]
YARD_TINY = ROOT / "infra" / "models" / "yard-tiny"
SCRIPTED = ROOT / "tests" / "support" / "scripted_engine.py"
NAME = "yard-tiny"

#: Stands in for a worker: starts the command as its own child and waits, to be killed.
WORKER = """
import json, os, pathlib, subprocess, sys
path = pathlib.Path(sys.argv[-1])
path.write_text(json.dumps(json.loads(path.read_text()) | {"parent_pid": os.getpid()}))
subprocess.run(sys.argv[1:], start_new_session=True)
"""


@dataclass(frozen=True)
class GuardedServer:
    """A running guard: `control` asks it, `client` the server."""

    config: EngineConfig
    command: Command
    process: subprocess.Popen[bytes]
    control: httpx.Client
    client: httpx.Client
    log: Path

    @property
    def health(self) -> int:
        return self.control.get("/health").status_code if self.command.control.exists() else 0

    def wait_ready(self, *, timeout: float = 10) -> "GuardedServer":
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            return self.health == httpx.codes.OK

        wait_until(ready, timeout=timeout, every=0.05, what=f"the server is ready: {self.log}")
        return self

    def stats(self) -> EngineStats:
        return EngineStats.model_validate_json(self.control.get("/stats").raise_for_status().content)

    def complete(self, **body: Any) -> dict[str, Any]:
        """The one choice of `/v1/completions`."""
        answer = self.client.post("/v1/completions", json={"model": NAME} | body).raise_for_status().json()
        choice: dict[str, Any] = answer["choices"][0]
        return choice | {"usage": answer["usage"]}

    def script(self, **ways: Any) -> None:
        """Change the ways of a scripted engine."""
        self.client.post("/script", json=ways).raise_for_status()

    @property
    def guard(self) -> psutil.Process:
        """The guard, whoever started it."""
        return psutil.Process(json.loads(self.log.read_text().partition("\n")[0])["pid"])

    @property
    def warden(self) -> psutil.Process:
        return self.guard.children()[0]

    @property
    def server(self) -> psutil.Process:
        return self.warden.children()[0]

    def tree(self) -> list[psutil.Process]:
        """The guard and everything below it."""
        return [self.guard, *self.guard.children(recursive=True)]

    @contextmanager
    def lifeline(self) -> Iterator[None]:
        """Hold a lifeline, as a worker does; leaving closes its connection."""
        with (
            _client(self.command.control, self.config.token) as client,
            client.stream("GET", "/lifeline", timeout=None) as response,
        ):
            lines = response.iter_lines()  # kept: httpx closes the connection with its iterator
            assert next(lines) == ": held"
            yield


class StartGuarded(Protocol):
    """Start a server without waiting for it; `by_worker` puts a stand-in for a worker above the guard."""

    def __call__(
        self,
        kind: str,
        settings: Settings,
        *,
        by_worker: bool = False,
        order: dict[str, Any] | None = None,
        **config: Any,
    ) -> GuardedServer: ...


@contextmanager
def guarded_servers(folder: Path) -> Iterator[StartGuarded]:
    """A factory; what still runs at the end is killed."""
    started: list[GuardedServer] = []

    def start(
        kind: str, settings: Settings, *, by_worker: bool = False, order: dict[str, Any] | None = None, **config: Any
    ) -> GuardedServer:
        own = Path(tempfile.mkdtemp(dir=folder))
        described = EngineConfig.model_validate(
            {
                "engine_id": own.name,
                "model_path": YARD_TINY,
                "models": (NAME,),
                "uds": own / "s",
                "parent_pid": os.getpid(),
            }
            | config
        )
        command = launcher(kind, settings).command(Order(described, folder=own, **order or {}))
        for path, text in command.files.items():
            path.write_text(text)
        with (own / "log").open("wb") as log:
            argv = [sys.executable, "-c", WORKER, *command.argv] if by_worker else [*command.argv]
            process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        clients = _client(command.control, described.token), _client(described.uds, described.token)
        started.append(GuardedServer(described, command, process, *clients, own / "log"))
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            _end(server)


def _end(server: GuardedServer) -> None:
    for client in (server.control, server.client):
        client.close()
    with suppress(psutil.NoSuchProcess, ProcessLookupError, ValueError):  # it may have died before its first word
        os.killpg(server.guard.pid, signal.SIGKILL)
    server.process.kill()
    server.process.wait()


def _client(uds: Path, token: str | None) -> httpx.Client:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(uds)), base_url="http://engine", headers=headers, timeout=60
    )


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs; zombies do not."""
    return all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in processes)


def scripted(*arguments: str, address: Sequence[str] = ("--uds", "{uds}"), name: str = "{served_name}") -> Settings:
    """Settings with a scripted engine (tests/support/scripted_engine.py) as the engine `scripted`."""
    line = [sys.executable, str(SCRIPTED), *address, "--name", name, "--token", "{token}"]
    return Settings(engine_commands={"scripted": [*line, *arguments]})
