"""What a forge says while it works: how far it is, lines for the job's log, figures."""

from collections.abc import Callable
from time import monotonic
from typing import Literal

from shared.contracts.forge import LogMessage, Message, MetricMessage, ProgressMessage

PROGRESS_EVERY_S = 0.1  # oftener is of use to nobody
TEXT_LENGTH = 4000  # characters of a log line or of an error's detail; a message has 64 KiB

Level = Literal["debug", "info", "warning", "error"]


class Tell:
    """Says it to `send`: `Pipe.send` in a forge, a list's `append` where nobody listens."""

    def __init__(self, send: Callable[[Message], object]) -> None:
        self._send = send
        self._told: tuple[str, float] = ("", 0.0)

    def progress(self, done: int, total: int | None = None, unit: str = "layers") -> None:
        """How far the work is. What follows within a tenth of a second is left out, but for the first and the last."""
        now = monotonic()
        before, at = self._told
        if before == unit and done != total and now - at < PROGRESS_EVERY_S:
            return
        self._told = (unit, now)
        self._send(ProgressMessage(done=done, total=total, unit=unit))

    def log(self, message: str, level: Level = "info") -> None:
        """A line of the job's log."""
        self._send(LogMessage(level=level, message=shortened(message)))

    def metric(self, step: int, **values: float) -> None:
        """Figures of one step."""
        self._send(MetricMessage(step=step, values=values))


def shortened(text: str) -> str:
    """What fits into a message, and into a line of a log: no NUL, which a database would refuse."""
    clean = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return clean if len(clean) <= TEXT_LENGTH else clean[: TEXT_LENGTH - 1] + "…"
