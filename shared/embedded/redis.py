"""The two Redis servers: the broker keeps every bell (append-only file), the cache forgets the oldest."""

import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import SecretStr

from shared.embedded import binaries
from shared.embedded.credentials import Credentials
from shared.embedded.layout import Layout, write_private
from shared.embedded.process import Role

BROKER = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory": "256mb",
    "maxmemory-policy": "noeviction",
}
CACHE = {
    "appendonly": "no",
    "maxmemory": "64mb",
    "maxmemory-policy": "allkeys-lru",
}


def broker(place: Layout, credentials: Credentials, *, port: int, env: Mapping[str, str]) -> Role:
    """The row of `broker`. A kill -9 loses at most a second of bells, which the reconciler rings again."""
    return _role("broker", place, password=credentials.broker_password, port=port, env=env, policy=BROKER)


def cache(place: Layout, credentials: Credentials, *, port: int, env: Mapping[str, str]) -> Role:
    """The row of `cache`: responses and rate buckets, nothing that would be missed."""
    return _role("cache", place, password=credentials.cache_password, port=port, env=env, policy=CACHE)


def url(password: SecretStr, *, port: int, database: int = 0) -> str:
    """The redis:// URL of one of the two servers."""
    return f"redis://:{password.get_secret_value()}@127.0.0.1:{port}/{database}"


def answers(port: int) -> bool:
    """Whether a Redis that has loaded its file listens here: PING gets -NOAUTH or +PONG, not -LOADING."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"-NOAUTH", b"+PONG"))
    except OSError:
        return False


def _role(
    name: str,
    place: Layout,
    *,
    password: SecretStr,
    port: int,
    env: Mapping[str, str],
    policy: Mapping[str, str],
) -> Role:
    config = place.secrets / f"{name}.conf"
    return Role(
        name=name,
        argv=(str(binaries.redis().path), str(config)),
        env=env,
        log=place.log(name),
        cwd=place.data / name,
        ready=lambda _pid: answers(port),
        prepare=_writer(config, password=password, port=port, policy=policy),
        grace_s=15,
    )


def _writer(config: Path, *, password: SecretStr, port: int, policy: Mapping[str, str]) -> Callable[[], None]:
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "protected-mode": "yes",
        "requirepass": password.get_secret_value(),
        "dir": "./",  # its working folder: no quoting of paths
        "daemonize": "no",
        "save": '""',
        "loglevel": "notice",
        "databases": "16",
        **policy,
    }
    text = "".join(f"{name} {value}\n" for name, value in settings.items())
    return lambda: write_private(config, text)
