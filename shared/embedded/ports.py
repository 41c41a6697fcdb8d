"""Free loopback ports, kept between starts while they stay free."""

import random
import socket
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
SPAN = 12_000  # how far below the ephemeral range we look: outgoing connections never take a port from there


def is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on this port right now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def pick(names: tuple[str, ...], *, keep: Mapping[str, int]) -> dict[str, int]:
    """One free port a name: the one that the name had before when it is still free, else a random one."""
    picked: dict[str, int] = {}
    for name in names:
        before = keep.get(name)
        taken = set(picked.values())
        picked[name] = before if before and before not in taken and is_free(before) else _free(taken)
    return picked


def _free(taken: set[int]) -> int:
    low = int(EPHEMERAL.read_text().split()[0]) if EPHEMERAL.exists() else 32_768
    candidates = range(max(1024, low - SPAN), low)
    for port in random.sample(candidates, len(candidates)):
        if port not in taken and is_free(port):
            return port
    raise OSError("no free loopback port")
