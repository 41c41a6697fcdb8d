"""The table of our own processes: what runs, in which order it stops, how it is asked to."""

import http.client
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import shared
from shared.embedded.layout import Layout
from shared.embedded.process import Role, always

ROOT = Path(shared.__file__).resolve().parent.parent  # where our packages are importable from
STOP_ORDER = (("gateway",), ("worker",), ("relay", "courier"), ("postgres", "broker", "cache", "store"))
NAMES = ("gateway", "relay", "worker", "courier", "postgres", "broker", "cache", "store")
READY_S = 2.0  # longest wait for one answer of /health/ready
GATEWAY = ("-m", "uvicorn", "gateway.app:create_app", "--factory", "--no-access-log", "--no-server-header")
GATEWAY_TIMES = ("--timeout-keep-alive", "5", "--timeout-graceful-shutdown", "10")


def gateway_argv(*where: str) -> tuple[str, ...]:
    """The command of a gateway process; `where` is `--fd N`, or `--host H --port P`."""
    return (sys.executable, *GATEWAY, *GATEWAY_TIMES, *where)


def module_argv(module: str) -> tuple[str, ...]:
    """The command of a process that is one of our modules."""
    return (sys.executable, "-m", module)


def python_roles(
    place: Layout, *, env: Mapping[str, str], listener: int, port: int, workers: int, drain_grace_s: float
) -> list[Role]:
    """The rows of gateway, relay, courier and workers.

    `listener` is the descriptor of the gateway's open socket, which the yard keeps: a gateway that is
    restarted answers late instead of refusing.
    """
    rows = [
        ("gateway", "gateway", gateway_argv("--fd", str(listener)), 15.0),
        ("relay", "relay", module_argv("workers.schedule"), 10.0),
        ("courier", "courier", module_argv("workers.courier"), 25.0),
        *[
            ("worker", _nth("worker", number), module_argv("workers.app"), drain_grace_s + 30)
            for number in range(1, workers + 1)
        ],
    ]
    return [
        Role(
            name=name,
            argv=argv,
            env=env,
            log=place.log(log),
            cwd=ROOT,
            ready=(lambda _pid: is_ready(port)) if name == "gateway" else always,
            grace_s=grace_s,
            parent_death=signal.SIGTERM,
            inherit=(listener,) if name == "gateway" else (),
        )
        for name, log, argv, grace_s in rows
    ]


def health(port: int, *, timeout_s: float = READY_S) -> tuple[int, bytes]:
    """Status and body of GET /health/ready on this host; (0, b"") when nobody answers in time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        return answer.status, answer.read(64 * 1024)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def is_ready(port: int) -> bool:
    """Whether the gateway on this host says that everything behind it works."""
    return health(port)[0] == http.client.OK


def _nth(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"
