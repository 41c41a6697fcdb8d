"""Where everything of an embedded yard lies (design §2), and who may read it: the owner alone.

DIR/ yard.json admin.key yard.lock secrets/ postgres/ broker/ cache/ store/ worker/ logs/; RUN holds sockets.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from shared.embedded.errors import YardError

PRIVATE_DIR = 0o700
PRIVATE_FILE = 0o600
FOLDERS = ("secrets", "broker", "cache", "store", "worker", "logs")  # initdb makes postgres/, all or nothing
LOG_CAP_BYTES = 10 * 1024 * 1024  # a log beyond this becomes {role}.log.1 when its process starts
TEMPORARY = Path("/tmp")  # noqa: S108 - TMPDIR may be long; RUN's owner and mode are checked


@dataclass(frozen=True)
class Layout:
    """The folders of one yard. Both are absolute; `run` is short, because a socket's path has 108 bytes."""

    data: Path
    run: Path

    @property
    def state_file(self) -> Path:
        return self.data / "yard.json"

    @property
    def lock_file(self) -> Path:
        return self.data / "yard.lock"

    @property
    def admin_key_file(self) -> Path:
        return self.data / "admin.key"

    @property
    def secrets(self) -> Path:
        return self.data / "secrets"

    @property
    def env_file(self) -> Path:
        return self.secrets / "modelyard.env"

    @property
    def postgres(self) -> Path:
        return self.data / "postgres"

    @property
    def broker(self) -> Path:
        return self.data / "broker"

    @property
    def cache(self) -> Path:
        return self.data / "cache"

    @property
    def store(self) -> Path:
        return self.data / "store"

    @property
    def worker(self) -> Path:
        return self.data / "worker"

    def log(self, role: str) -> Path:
        """The log of one role; a second process of the role is named `worker-2`."""
        return self.data / "logs" / f"{role}.log"

    def create_data(self) -> None:
        """Make the folders of `data` that are missing, private to the owner."""
        self.data.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
        for name in FOLDERS:
            (self.data / name).mkdir(mode=PRIVATE_DIR, exist_ok=True)

    def create_run(self) -> None:
        """Make RUN, private to the owner. Raises YardError when somebody else has made it."""
        self.run.mkdir(mode=PRIVATE_DIR, exist_ok=True)
        self.check_run()

    def remove_run(self) -> None:
        """Remove the sockets of a yard that has stopped."""
        shutil.rmtree(self.run, ignore_errors=True)

    def check_run(self) -> None:
        """Raises YardError when RUN is a link, belongs to somebody else or can be entered by others."""
        found = self.run.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise YardError(
                f"{self.run} should be a private folder of yours, and is not.",
                fix="Remove it.",
            )


def layout(data: Path) -> Layout:
    """The layout of the yard in `data`.

    RUN follows from the data folder alone, so a worker that comes back finds the sockets of its engines. It is not
    below XDG_RUNTIME_DIR, which goes when its user logs out while a detached yard stays.
    """
    data = data.resolve()
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:10]
    return Layout(data=data, run=TEMPORARY / f"modelyard-{os.geteuid()}-{digest}")


def write_private(path: Path, text: str) -> None:
    """Replace `path` with `text` at once (temporary name, fsync, rename); the owner alone may read it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def open_log(path: Path) -> int:
    """A descriptor that appends to a log (0600), after a log over the cap has been set aside as `.1`."""
    if path.exists() and path.stat().st_size > LOG_CAP_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)


def tail(path: Path, *, lines: int, window_bytes: int = 256 * 1024) -> list[str]:
    """The last `lines` lines of a log, or none when there is no log; reads at most `window_bytes`."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - window_bytes))
            return file.read().decode(errors="replace").splitlines()[-lines:] if lines else []
    except FileNotFoundError:
        return []
