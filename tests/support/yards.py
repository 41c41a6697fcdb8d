"""Whole yards, started and stopped through the command line."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from shared.embedded import remains, state
from shared.embedded.layout import Layout, layout, tail
from shared.embedded.roles import ROOT
from shared.embedded.state import YardState
from tests.support.polling import wait_until


@dataclass(frozen=True)
class RunningYard:
    """One yard of a test."""

    place: Layout
    environment: dict[str, str]

    @property
    def state(self) -> YardState:
        """yard.json as it is now."""
        found = state.load(self.place)
        assert found is not None
        return found

    @property
    def url(self) -> str:
        return self.state.url

    @property
    def admin_key(self) -> str:
        return self.place.admin_key_file.read_text().strip()

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client that carries the admin key; without TLS, whose certificates take 23 ms to load."""
        headers = {"Authorization": f"Bearer {self.admin_key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, verify=False, **options)

    def insist(self, method: str, path: str, *, timeout: float = 120, **options: Any) -> httpx.Response:
        """Ask until the gateway answers: it may be away, and what is behind it too. Raises for what is refused."""

        def answered() -> httpx.Response | None:
            try:
                with self.client() as client:
                    answer = client.request(method, path, **options)
            except httpx.TransportError:
                return None
            return None if answer.status_code >= 500 else answer.raise_for_status()

        return wait_until(answered, timeout=timeout, every=0.1, what=f"an answer to {method} {path}")

    def cli(self, *arguments: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run `modelyard …` against this yard: --data for its own commands, URL and key for the others."""
        caller = {"MODELYARD_DATA_DIR": str(self.place.data)}
        if self.place.admin_key_file.exists():
            caller |= {"MODELYARD_URL": self.url, "MODELYARD_API_KEY": self.admin_key}
        done = run_cli(*arguments, env={**self.environment, **caller}, timeout=timeout)
        assert not check or done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def up(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`modelyard up --detach`. Shows the logs when it fails."""
        done = self.cli("up", "--detach", *arguments, check=False)
        assert not check or done.returncode == 0, f"{done.stderr}\n{self.logs()}"
        return done

    def down(self) -> None:
        self.cli("down", timeout=300)

    def pids(self, role: str) -> list[int]:
        return self.state.pids.get(role, [])

    def kill(self, role: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal the role's first process; returns its pid."""
        pid = self.pids(role)[0]
        os.kill(pid, number)
        return pid

    @contextmanager
    def frozen(self, role: str) -> Iterator[None]:
        """Stop the role's first process inside the block (SIGSTOP), for what must happen before it does anything."""
        pid = self.kill(role, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def await_restart(self, role: str, *, old: int, timeout: float = 60) -> int:
        """Wait for the role's next process and until the yard is ready again; returns the new pid."""

        def fresh() -> int:
            now = self.pids(role)
            return now[0] if now and now[0] != old and self.is_ready() else 0

        return wait_until(fresh, timeout=timeout, what=f"{role} is back")

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5, verify=False).status_code == 200
        except httpx.TransportError:
            return False

    def logs(self, *, lines: int = 40) -> str:
        """The end of every log, for a test's failure message."""
        files = sorted((self.place.data / "logs").glob("*.log"))
        return "\n".join(f"--- {path.name}\n" + "\n".join(tail(path, lines=lines)) for path in files)


class StartYard(Protocol):
    """Start a yard with settings by name, e.g. `yard(lease_ttl_s=5)`; `workers`, `data` and `port` are `up`'s."""

    def __call__(self, *arguments: str, data: Path | None = None, **settings: object) -> RunningYard: ...


@contextmanager
def yards(folder: Path) -> Iterator[StartYard]:
    """A factory of yards; at the end all are stopped, and none may have left a process."""
    with ExitStack() as stack:

        def start(*arguments: str, data: Path | None = None, **settings: object) -> RunningYard:
            place = layout(data or folder / f"yard-{len(started)}")
            running = RunningYard(place=place, environment=environment_of(settings))
            started.append(running)
            stack.callback(_finish, running)
            running.up(*arguments)
            return running

        started: list[RunningYard] = []
        yield start


def environment_of(settings: dict[str, object]) -> dict[str, str]:
    """The environment of `modelyard up` in a test: no settings of the caller's, environment test, these settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
    chosen = {"environment": "test", **settings}
    return kept | {f"MODELYARD_{name.upper()}": _spelled(value) for name, value in chosen.items()}


def run_cli(*arguments: str, env: dict[str, str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """`modelyard …` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "services.cli.main", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _spelled(value: object) -> str:
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)


def _finish(yard: RunningYard) -> None:
    yard.down()
    left = remains.find(yard.place)
    assert not left, [process.cmdline() for process in left]
