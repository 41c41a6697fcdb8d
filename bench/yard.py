"""A yard of the benchmark's own, brought up as a user would."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from shared.db.session import Database
from shared.settings import Settings


@dataclass(frozen=True)
class Yard:
    """A running yard: where it is, and its first key."""

    data: Path
    url: str
    key: str
    settings: Settings
    database: Database
    client: httpx.Client

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the gateway."""
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    @property
    def pids(self) -> dict[str, list[int]]:
        """Process ids by role, as `yard.json` says now."""
        found: dict[str, list[int]] = json.loads((self.data / "yard.json").read_text())["pids"]
        return found

    def kill(self, role: str) -> None:
        """SIGKILL the role's processes."""
        for pid in self.pids[role]:
            os.kill(pid, signal.SIGKILL)

    def submit(self, kind: str, spec: Mapping[str, Any], **fields: Any) -> str:
        """POST a job; its id."""
        answer = self.client.post("/v1/jobs", json={"kind": kind, "spec": spec, **fields})
        answer.raise_for_status()
        job: str = answer.json()["id"]
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        """GET a job."""
        answer = self.client.get(f"/v1/jobs/{job_id}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def finished(self, job_id: str, *, timeout_s: float = 300) -> dict[str, Any]:
        """Long-poll until the job is terminal.

        Raises:
            TimeoutError: it is not, after `timeout_s`.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            answer = self.client.get(f"/v1/jobs/{job_id}", params={"wait": 30})
            answer.raise_for_status()
            job: dict[str, Any] = answer.json()
            if job["state"] not in ("queued", "running"):
                return job
        msg = f"job {job_id} is not done after {timeout_s} s"
        raise TimeoutError(msg)


@contextmanager
def running() -> Iterator[Yard]:
    """Bring a yard up in a temporary folder, take it down at the end."""
    with tempfile.TemporaryDirectory(prefix="yard-bench-") as folder:
        data = Path(folder) / "data"
        _cli("up", "--detach", "--data", str(data))
        try:
            yield _open(data)
        finally:
            _cli("down", "--data", str(data))


def _cli(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "services.cli.main", *words], check=True, stdout=subprocess.DEVNULL)


def _open(data: Path) -> Yard:
    url = json.loads((data / "yard.json").read_text())["url"]
    key = (data / "admin.key").read_text().strip()
    settings = Settings(_env_file=data / "secrets" / "modelyard.env")
    return Yard(
        data=data,
        url=url,
        key=key,
        settings=settings,
        database=Database(settings.database_url.get_secret_value(), name="bench"),
        client=httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60),
    )


def until(ready: Callable[[], object], *, timeout_s: float = 60, every_s: float = 0.01) -> None:
    """Poll until `ready()`.

    Raises:
        TimeoutError: not within `timeout_s`.
    """
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            msg = f"not ready after {timeout_s} s"
            raise TimeoutError(msg)
        time.sleep(every_s)


def resident_mb(pids: list[int]) -> float:
    """Proportional set size of these processes and their children, in MB: shared pages are counted once."""
    family = {p for pid in pids for p in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))}
    return float(sum(process.memory_full_info().pss for process in family)) / 1e6
