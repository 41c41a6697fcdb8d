"""What a forge says on its way becomes rows: lines of the log, and figures of steps, in groups of a second.

Neither is worth stopping for. While the database is away figures wait in memory; they are never lost, log lines may be.
Not even with this process: a checkpoint's row comes after the figures of its steps, which no later attempt tells again.
"""

import asyncio
import math
from contextlib import suppress
from typing import Final

from sqlalchemy.orm import Session

from services.jobs import lifecycle, running
from shared.clock import monotonic
from shared.errors import DatabaseUnavailable, Fenced
from workers.runtime.host import Host
from workers.runtime.work import Stop, Work

EVERY_S: Final = 1.0
LOG_LINES: Final = 10_000  # kept of one attempt
LOG_BURST: Final = 200  # kept of one second

Figures = dict[int, dict[str, float]]  #: by step


class Told:
    """Lines and figures of one forge. Used on the runner's loop."""

    def __init__(self, work: Work, host: Host) -> None:
        self._work = work
        self._host = host
        self._logs: list[tuple[str, str]] = []
        self._logged = 0
        self._figures: Figures = {}
        self._untold: Figures = {}  #: the newest that are written, unless an event has told of them
        self._announced_at = -math.inf
        self._writing = asyncio.Lock()  # of figures: whoever waits for it finds them in the database

    def note(self, level: str, message: str) -> None:
        """Keep a line, unless there are too many."""
        if self._logged < LOG_LINES and len(self._logs) < LOG_BURST:
            self._logs.append((level, message))
            self._logged += 1

    def measure(self, step: int, values: dict[str, float]) -> None:
        """Keep a step's figures, beside those that it has."""
        self._figures[step] = self._figures.get(step, {}) | values

    async def run(self) -> None:
        """Write what there is every second, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what there is, if the database answers."""
        await self._write_logs()
        async with self._writing:
            if not self._figures:
                return
            figures, told = self._taken(), self._due()
            try:
                await self._host.transactions.run(lambda session: self._keep(session, figures, told=told))
            except Fenced:
                self._work.halt(Stop.FENCED)
            except DatabaseUnavailable:
                self._put_back(figures)
            except asyncio.CancelledError:
                self._put_back(figures)
                raise

    async def settle(self) -> None:
        """Write what there is, as soon as the database answers.

        Raises:
            Fenced: another attempt owns the job.
        """
        await self._write_logs()
        self._figures = self._untold | self._figures  # written before, perhaps: an event tells of the last all the same
        await self.catch_up(told=True)

    async def catch_up(self, *, told: bool = False) -> None:
        """Return when the figures that are known now are written. `told`: with an event of the newest.

        Raises:
            Fenced: another attempt owns the job.
        """
        async with self._writing:
            if not self._figures:
                return
            figures = self._taken()
            try:
                await self._host.transactions.insist(lambda session, _: self._keep(session, figures, told=told))
            except BaseException:
                self._put_back(figures)
                raise

    def _taken(self) -> Figures:
        figures, self._figures = self._figures, {}
        return figures

    def _put_back(self, figures: Figures) -> None:
        """For the next time; if they were written after all, the values are the same."""
        for step, values in self._figures.items():
            figures[step] = figures.get(step, {}) | values
        self._figures = figures

    def _keep(self, session: Session, figures: Figures, *, told: bool) -> None:
        running.keep_metrics(session, self._work.claim, figures, told=told)
        newest = max(figures)
        self._untold = {} if told else {newest: figures[newest]}

    def _due(self) -> bool:
        """Whether an event may tell of figures: one a second of a young job, later one each percent of its age."""
        now = monotonic()
        if now - self._announced_at < max(EVERY_S, (now - self._work.started) / 100):
            return False
        self._announced_at = now
        return True

    async def _write_logs(self) -> None:
        lines, self._logs = self._logs, []
        if lines:
            with suppress(DatabaseUnavailable):  # a log line is not worth waiting for
                await self._host.transactions.run(lambda session: lifecycle.add_logs(session, self._work.claim, lines))
