"""JSON lines on stderr. Events and figures only: a prompt or an output never passes through here."""

import json
import logging
import sys
import time
import traceback

logger = logging.getLogger("workers.engine")


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, event, the record's `fields`, and where an exception came from."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            # Frames and type, not the message: an exception's text may quote its input.
            line["exception"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line, default=str)


def start_logging(engine_id: str, *, rank: int = 0) -> None:
    """Send every logger's warnings, and our own events, to stderr."""
    common: dict[str, object] = {"engine_id": engine_id} | ({"rank": rank} if rank else {})
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(lambda record: _mark(record, common))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    logger.setLevel(logging.INFO)
    # It quotes token ids of requests that come too late.
    logging.getLogger("transformers").setLevel(logging.CRITICAL)


def _mark(record: logging.LogRecord, common: dict[str, object]) -> bool:
    record.fields = common | getattr(record, "fields", {})
    return True


def log(event: str, *, level: int = logging.INFO, **fields: object) -> None:
    """One event with its figures."""
    logger.log(level, event, extra={"fields": fields})


def seconds_since(start: float) -> float:
    """Seconds since a `time.monotonic()`, for a log line."""
    return round(time.monotonic() - start, 3)
