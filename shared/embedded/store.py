"""The S3 store of an embedded yard: `rclone serve s3` over the folder store/."""

import http.client
import os
from collections.abc import Mapping
from pathlib import Path

from shared.embedded import binaries
from shared.embedded.credentials import Credentials
from shared.embedded.layout import PRIVATE_DIR, Layout
from shared.embedded.process import Role

TEMPORARY = ".rclone_temp_"  # what an upload is called until it is complete
OPTIONS = (
    "--vfs-cache-mode=off",  # uploads stream to the folder; nothing is kept in memory
    "--etag-hash=",  # MD5 would read a blob again at its first HEAD (1.6 s a GB); our names are digests
    "--poll-interval=0",
    "--dir-perms=0700",
    "--file-perms=0600",
    "--umask=077",
)


def role(place: Layout, credentials: Credentials, *, port: int, bucket: str, env: Mapping[str, str]) -> Role:
    """The row of `store`. The key pair travels in the environment, which the owner alone may read."""
    pair = f'"{credentials.s3_access_key},{credentials.s3_secret_key.get_secret_value()}"'
    return Role(
        name="store",
        argv=(
            str(binaries.rclone_path()),
            "serve",
            "s3",
            *OPTIONS,
            f"--addr=127.0.0.1:{port}",
            ".",
        ),
        env={**env, "RCLONE_AUTH_KEY": pair, "RCLONE_CONFIG": "", "GOMEMLIMIT": "128MiB"},
        log=place.log("store"),
        cwd=place.store,
        ready=lambda _pid: answers(port),
        prepare=lambda: _prepare(place.store, bucket=bucket),
        grace_s=10,
    )


def answers(port: int) -> bool:
    """Whether an S3 server listens here: any answer will do, it refuses a caller without a signature."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=0.5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _prepare(folder: Path, *, bucket: str) -> None:
    """Make the bucket, and sweep what uploads left behind when the server was killed."""
    (folder / bucket).mkdir(mode=PRIVATE_DIR, exist_ok=True)
    for parent, _, files in os.walk(folder):
        for name in files:
            if name.startswith(TEMPORARY):
                (Path(parent) / name).unlink(missing_ok=True)
