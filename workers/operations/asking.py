"""Requests of one attempt to its engine: equal ones are asked once, broken ones again, and answers are kept."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.contracts.jobs import JobError, Tier
from shared.engine_client import Reply
from workers.operations.lines import Line, LineCache
from workers.runtime.engine import Engine
from workers.runtime.host import Host
from workers.runtime.launch.kinds import extras, launcher
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.work import Work

BROKEN_TRIES: Final = 3  # of a request that the engine answers with a 5xx
REFUSED: Final = (401, 404)  # answers that say something about the engine, not about the request


@dataclass(frozen=True)
class Answered:
    """What became of a request: OpenAI's object, or (any status but 200) its error."""

    status: int
    body: Mapping[str, Any]
    fresh: bool = True  #: the engine worked for it; False: it is an equal request's answer, or the cache's

    @property
    def error(self) -> JobError:
        """Why there is no answer."""
        told = self.body.get("error") or {}
        return JobError(
            code=told.get("code") or "engine_error",
            title=told.get("message") or "The engine refused the request",
            retryable=self.status >= 500,
        )


class Asker:
    """One attempt's way to its engine."""

    def __init__(self, work: Work, host: Host, engine: Engine, cache: LineCache) -> None:
        self._work = work
        self._engine = engine
        self._cache = cache
        self._extras = extras(launcher(engine.kind, host.settings), Tier.of_rank(work.claim.tier))
        self._twins: dict[str, asyncio.Future[Answered]] = {}

    @property
    def places(self) -> int:
        """Requests that the engine takes from jobs at once."""
        return self._engine.lane.size

    async def answer(self, line: Line) -> Answered:
        """The answer to a line; of equal lines whose answer is always the same only the first is asked.

        Raises:
            EngineFailed: the engine keeps dying, or refuses us altogether.
        """
        if line.key is None:
            return await self._ask(line)
        name = line.key.sha256
        if name in self._twins:
            found = await asyncio.shield(self._twins[name])
            return Answered(found.status, found.body, fresh=False)
        self._twins[name] = asyncio.ensure_future(self._ask(line))
        try:
            return await self._twins[name]
        except BaseException:
            self._twins.pop(name).cancel()
            raise

    async def _ask(self, line: Line) -> Answered:
        body = {**line.body, **self._extras}
        for _ in range(BROKEN_TRIES):
            reply = await self._engine.ask(self._work, line.path, body, cost=line.cost)
            if reply.status == 200:
                self._cache.keep(line, reply.body)
                return Answered(200, reply.json())
            if reply.status in REFUSED:
                raise EngineFailed(_answered(reply).error)
            if reply.status < 500:
                break
        return _answered(reply)


def _answered(reply: Reply) -> Answered:
    return Answered(reply.status, reply.json())
