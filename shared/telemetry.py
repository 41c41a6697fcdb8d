"""What a process says about itself: JSON lines on stderr, and figures for Prometheus.

A log line carries ids, sizes, digests and durations. Prompts, outputs, bodies and keys never reach it; the
redaction at the end is the last resort, not the rule. An exception is logged by type, place and the first
line of its message: the lines after it are where PostgreSQL quotes rows.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"  # content type of `exposition`
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
MESSAGE_CHARACTERS = 500
FRAMES = 12  # innermost frames of an exception

_OWN = frozenset(logging.LogRecord("", 0, "", 0, None, None, None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
_SECRETS = re.compile(
    r"(modelyard_[a-z]+_[0-9A-Za-z]{12}_)[0-9A-Za-z_]+"  # API keys keep their key id
    r"|(whsec_)[A-Za-z0-9+/=]+"
    r"|((?:Bearer|Basic)\s+)[^\s\"',]+"
    r"|(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"]+"
    r"|(\b[a-z][a-z0-9+.]*://[^\s:/@]*:)[^\s@/]+(?=@)",  # the password of a URL
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` with whatever looks like a secret replaced by `…`."""
    return _SECRETS.sub(lambda match: next(filter(None, match.groups())) + "…", text)


class JsonLines(logging.Formatter):
    """One JSON object a line: ts, level, role, event, logger, then the fields given by `extra`."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "role": self._role,
            "event": record.getMessage()[:MESSAGE_CHARACTERS],
            "logger": record.name,
        }
        line |= {key: value for key, value in record.__dict__.items() if key not in _OWN}
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _told(record.exc_info[1])
        return redact(orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode())


def logger(name: str) -> logging.Logger:
    """The logger of a module. A message is a short event, its particulars are fields.

    `log.info("webhook delivered", extra={"delivery": id, "status": 200})`
    """
    return logging.getLogger(name)


def configure(role: str, *, level: str = "INFO") -> None:
    """Send every logger of this process to stderr as JSON lines. Called once, at the start of a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(role))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # warns of every retry
    # At INFO these tell every request, with its URL, or every bell.
    for chatty in ("httpx", "httpcore", "celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


disable_created_metrics()  # type: ignore[no-untyped-call]  # a third of all series, which nobody asks for
REGISTRY = CollectorRegistry()
ProcessCollector(namespace="modelyard", registry=REGISTRY)


def counter(name: str, documentation: str, *labels: str) -> Counter:
    """A figure that only grows, as `modelyard_<name>_total`."""
    return Counter(name, documentation, labels, namespace="modelyard", registry=REGISTRY)


def gauge(name: str, documentation: str, *labels: str) -> Gauge:
    """A figure that goes up and down, as `modelyard_<name>`."""
    return Gauge(name, documentation, labels, namespace="modelyard", registry=REGISTRY)


def histogram(name: str, documentation: str, *labels: str) -> Histogram:
    """A distribution of seconds, as `modelyard_<name>_bucket`; its buckets go from 1 ms to a minute."""
    return Histogram(name, documentation, labels, namespace="modelyard", registry=REGISTRY, buckets=SECONDS)


def exposition(*further: Metric) -> bytes:
    """Every figure of this process, and further families, in Prometheus' text format (content type `EXPOSITION`).

    Those of the process carry the label `process`: several may answer on one port, each with counters of its own.
    """
    return generate_latest(_Families([*map(_marked, REGISTRY.collect()), *further]))


def _marked(family: Metric) -> Metric:
    marked = copy(family)
    process = {"process": str(os.getpid())}
    marked.samples = [sample._replace(labels=sample.labels | process) for sample in family.samples]
    return marked


class _Families(CollectorRegistry):
    """Families that were made for one answer."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _told(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    lines = str(error).splitlines()
    return {
        "type": type(error).__name__,
        "message": lines[0][:MESSAGE_CHARACTERS] if lines else "",
        "at": [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames],
    }
