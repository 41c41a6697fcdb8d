"""PostgreSQL of an embedded yard: scram passwords, loopback only, and root kept out by a user namespace."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from shared.embedded import binaries
from shared.embedded.credentials import Credentials
from shared.embedded.errors import CannotStart, Unconfinable
from shared.embedded.layout import PRIVATE_DIR, Layout
from shared.embedded.process import Role

NAME = "modelyard"  # of the superuser and of the database
NAMESPACE = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
INITDB = (
    f"--username={NAME}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)
SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "64MB",
    "wal_level": "minimal",  # no replicas here; pg_dump is the backup
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": "10s",  # a stopped worker must not hold its row locks
    "autovacuum_naptime": "15s",  # queue tables live on fresh vacuum
    "jit": "off",  # our statements are short: compiling one costs more than running it
    "io_method": "sync",  # saves three I/O processes
    "shared_memory_type": "mmap",
    "huge_pages": "off",
    # Prompts must not reach the log: no parameters, no statements, no DETAIL ("Failing row contains …").
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_line_prefix": "%m [%p] ",
}


@cache
def confinement() -> tuple[str, ...]:
    """The prefix that lets `postgres` run here: none for an ordinary user, a user namespace for root.

    Inside it the server sees uid 65534 while its files stay root's, so folders of mode 0700 work.
    Raises Unconfinable.
    """
    if os.geteuid() != 0:
        return ()
    if shutil.which(NAMESPACE[0]) is None:
        raise Unconfinable("PostgreSQL refuses to run as root, and `unshare` (util-linux) was not found.")
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0:
        raise Unconfinable
    return NAMESPACE


def role(place: Layout, credentials: Credentials, *, port: int, env: Mapping[str, str], fsync: bool = True) -> Role:
    """The row of `postgres`. Its pid is the postmaster's: `unshare` becomes the server.

    `fsync=False` is for tests alone. Raises MissingBinary, Unconfinable.
    """
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": str(place.run),
        "fsync": "on" if fsync else "off",
        **SETTINGS,
    }
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    program = str(binaries.postgres_folder() / "postgres")
    return Role(
        name="postgres",
        argv=(*confinement(), program, "-D", str(place.postgres), *arguments),
        env=env,
        log=place.log("postgres"),
        cwd=place.data,
        ready=lambda pid: _says_ready(place.postgres, pid=pid),
        prepare=lambda: _initialise(place, credentials, env=env),
        stop_signal=signal.SIGINT,  # fast shutdown: sessions are ended, a checkpoint is written
        grace_s=30,
        longest_delay_s=1,  # after kill -9 the old back ends hold shared memory for a moment: ask again soon,
        tries=60,  # for a minute
    )


def url(credentials: Credentials, *, port: int, database: str = NAME) -> str:
    """The SQLAlchemy URL of a database of this server."""
    return f"postgresql+psycopg://{NAME}:{credentials.postgres_password.get_secret_value()}@127.0.0.1:{port}/{database}"


def _says_ready(data: Path, *, pid: int) -> bool:
    """What pg_ctl looks at: line 1 of postmaster.pid is the pid, line 8 the status."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _initialise(place: Layout, credentials: Credentials, *, env: Mapping[str, str]) -> None:
    """Make the cluster and its database, all or nothing: under another name first. Raises CannotStart."""
    if place.postgres.exists():
        return
    fresh = place.data / "postgres.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=PRIVATE_DIR)
    folder = binaries.postgres_folder()
    password = credentials.postgres_password.get_secret_value()
    initdb = [str(folder / "initdb"), "-D", str(fresh), *INITDB, "--pwfile=/dev/stdin"]
    single_user = [str(folder / "postgres"), "--single", "-D", str(fresh), "postgres"]
    for argv, text in ((initdb, f"{password}\n"), (single_user, f"CREATE DATABASE {NAME};\n")):
        done = subprocess.run(
            [*confinement(), *argv],
            input=text,
            env=dict(env),
            cwd=place.data,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CannotStart(f"PostgreSQL could not make {fresh}: {done.stderr.strip()[-500:]}")
    fresh.rename(place.postgres)
