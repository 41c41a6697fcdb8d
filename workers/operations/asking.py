"""Requests of one attempt to its engine: equal ones are asked once, broken ones again, and answers are kept."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from shared.contracts.jobs import JobError, Tier
from shared.engine_client import Reply
from workers.operations.lines import Line, LineCache
from workers.operations.storable import told
from workers.runtime.engine import Engine
from workers.runtime.host import Host
from workers.runtime.launch.kinds import extras, launcher
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.work import Work

BROKEN_TRIES: Final = 3  # of a request that the engine answers with a 5xx, or with what is no JSON
REFUSED: Final = (401, 404)  # answers that say something about the engine, not about the request
TOO_LONG: Final = "maximum context length"  # in vLLM's own words, whose code is the status
KEPT_BYTES: Final = 4 * 1024**2  # of answers that equal lines may still want: a thousand of 4 KiB


@dataclass(frozen=True)
class Answered:
    """What became of a request: OpenAI's object, or (any status but 200) its error. Whoever gets it may change it."""

    status: int
    body: dict[str, Any]
    fresh: bool = True  #: the engine worked for it; False: it is an equal request's answer, or the cache's

    @property
    def error(self) -> JobError:
        """Why there is no answer."""
        message, code = self._told.get("message"), self._told.get("code")
        if not isinstance(message, str):
            message = "The engine refused the request"
        if not isinstance(code, str):
            code = "context_length_exceeded" if TOO_LONG in message else "engine_error"
        return JobError(code=code, title=message, retryable=self.status >= 500)

    @property
    def param(self) -> str | None:
        """The field that is to blame."""
        param = self._told.get("param")
        return param if isinstance(param, str) else None

    @property
    def _told(self) -> dict[str, Any]:
        error = self.body.get("error")
        return error if isinstance(error, dict) else {}

    @classmethod
    def of(cls, reply: Reply, *, fresh: bool = True) -> "Answered":
        """What an engine's reply says."""
        body = told(reply.body)
        if isinstance(body, dict):
            return cls(reply.status, body, fresh)
        words = {"message": f"The engine's answer of status {reply.status} is not JSON", "code": "engine_error"}
        return cls(502 if reply.status == 200 else reply.status, {"error": words}, fresh)


class Asker:
    """One attempt's way to its engine."""

    def __init__(self, work: Work, host: Host, engine: Engine, cache: LineCache) -> None:
        self._work = work
        self._engine = engine
        self._cache = cache
        self._extras = extras(launcher(engine.kind, host.settings), Tier.of_rank(work.claim.tier))
        self._asking: dict[str, asyncio.Future[Reply]] = {}
        self._kept: OrderedDict[str, Reply] = OrderedDict()  #: the latest, of `KEPT_BYTES` in all
        self._kept_bytes = 0

    @property
    def places(self) -> int:
        """Requests that the engine takes from jobs at once."""
        return self._engine.lane.size

    def knows(self, line: Line) -> bool:
        """Whether an equal line was asked before: this one needs no place in the engine."""
        return line.key is not None and (line.key.sha256 in self._asking or line.key.sha256 in self._kept)

    async def answer(self, line: Line) -> Answered:
        """The answer to a line; of equal lines whose answer is always the same only the first is asked.

        Raises:
            EngineFailed: the engine keeps dying, or refuses us altogether.
        """
        if line.key is None:
            return (await self._ask(line))[0]
        name = line.key.sha256
        while (asking := self._asking.get(name)) is not None:
            try:
                return Answered.of(await asyncio.shield(asking), fresh=False)
            except asyncio.CancelledError:
                if not asking.cancelled() or _cancelled():
                    raise
        if name in self._kept:
            return Answered.of(self._kept[name], fresh=False)
        return await self._first(line, name)

    async def _first(self, line: Line, name: str) -> Answered:
        asking = self._asking[name] = asyncio.get_running_loop().create_future()
        try:
            answered, reply = await self._ask(line)
            asking.set_result(reply)
            self._keep(name, reply)
        except Exception as error:
            asking.set_exception(error)
            asking.exception()  # it may be that nobody else waits
            raise
        finally:
            del self._asking[name]
            asking.cancel()  # of no effect unless we were cancelled: then an equal line asks
        return answered

    def _keep(self, name: str, reply: Reply) -> None:
        self._kept[name] = reply
        self._kept_bytes += len(reply.body)
        while self._kept_bytes > KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest.body)

    async def _ask(self, line: Line) -> tuple[Answered, Reply]:
        body = {**line.body, **self._extras}
        for _ in range(BROKEN_TRIES):
            reply = await self._engine.ask(self._work, line.path, body, cost=line.cost)
            answered = Answered.of(reply)
            if answered.status == 200:
                self._cache.keep(line, reply.body)
            if answered.status in REFUSED:
                raise EngineFailed(answered.error)
            if answered.status < 500:
                break
        return answered, reply


def _cancelled() -> bool:
    """Whether the one who waits is to stop, and not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
