"""One call: placed at a replica, asked again while nothing of an answer was passed on, recorded when it ends."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any, Final, TypeVar
from uuid import UUID

from starlette.requests import ClientDisconnect

from gateway.calls.asking import Ask
from gateway.calls.calls import Calls
from gateway.calls.errors import CallCancelled, CallRefused, EngineLost
from gateway.calls.events import Events, error_of
from gateway.calls.replicas import Seat
from services.jobs.kinds import CALL
from services.jobs.types import Ending, Outcome, Placed
from services.responses.flights import Found
from services.usage import service as usage
from shared import metrics
from shared.clock import monotonic
from shared.contracts.jobs import JobError, Pool, Usage
from shared.engine_client import Answer, EngineAbsent, EngineGone
from shared.errors import ModelyardError
from shared.ids import new_id
from shared.metrics import CallSeen
from shared.queues import queue_name

DEATHS: Final = 3  #: of engines under one call, after which the call is to blame
FULL: Final = (429, 503)  #: full, loading or draining
STOPPED: Final = JobError(code="gateway_stopped", title="The gateway was stopped")
BROKEN: Final = JobError(code="internal_error", title="Something went wrong on our side")

T = TypeVar("T")


class Stop(Enum):
    """Who ended a call early."""

    GONE = "gone"  #: the client hung up
    CANCELLED = "cancelled"  #: its job was cancelled


_STOPS: Final = {
    Stop.GONE: JobError(code="client_gone", title="The client hung up"),
    Stop.CANCELLED: JobError(code="cancelled", title="The call was cancelled"),
}


class Call:
    """A call that runs. What has begun is always `finish`ed, once."""

    def __init__(self, calls: Calls, ask: Ask, found: Found, *, began: float) -> None:
        self.id: UUID = new_id()
        self.ask = ask
        self.found = found
        self.usage: Mapping[str, Any] | None = None  #: as the engine counted
        self.events: Events | None = None  #: of a stream: what was passed on so far
        self.begun: asyncio.Future[None] | None = None
        self.first_token_at: float | None = None
        self._calls = calls
        self._began = began
        self._seat: Seat | None = None
        self._seated_at = 0.0
        self._crowd = 0  #: calls at its replica when it came there; 0: it is at none
        self._gpu_s = 0.0
        self._held = False
        self._waited: float | None = None
        self._task: asyncio.Task[Any] | None = None
        self._stop: Stop | None = None
        self._finished = False
        calls.running[self.id] = self

    async def ask_engine(self, take: Callable[[Answer], Awaitable[T]]) -> T:
        """What `take` makes of an engine's answer of status 200; asked again when the engine dies meanwhile.

        Raises:
            CallRefused: the engine finds fault with the request.
            EngineLost: engines died `DEATHS` times. Further: as `Placer.place`.
        """
        until = self._began + self._calls.edge.settings.place_wait_s
        path, deaths = self.ask.endpoint.path, 0
        while True:
            seat = await self._calls.placer.place(self.ask, until=until)
            self._sit(seat)
            try:
                answer = await seat.client.open(path, self.ask.data(seat.replica.kind))
                if answer.status == HTTPStatus.OK:
                    taken = await self._taken(answer, take)
                    seat.answered()
                    return taken
                refused = CallRefused.of_engine(answer.status, error_of(await answer.whole()))
            except EngineGone as gone:
                seat.failed()
                deaths += not isinstance(gone, EngineAbsent)  # that one has not seen the call
                if deaths >= DEATHS:
                    raise EngineLost from gone
                continue
            finally:
                if not self._held:
                    self._rise()
            deaths += self._judge(seat, refused)
            if deaths >= DEATHS:
                raise self._in_callers_words(refused)

    @staticmethod
    async def _taken(answer: Answer, take: Callable[[Answer], Awaitable[T]]) -> T:
        try:
            return await take(answer)
        except BaseException:
            answer.close()
            raise

    def _judge(self, seat: Seat, refused: CallRefused) -> int:
        """What a refusal costs the call: nothing when the engine is full, a death when it failed. Else raises it."""
        if refused.status in FULL:
            seat.full()
            return 0
        if refused.status == HTTPStatus.NOT_FOUND:  # it does not serve that model (any more): our view is old
            seat.failed()
            self._calls.replicas.heard("")
            return 1
        if refused.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return 1
        raise self._in_callers_words(refused)

    def _in_callers_words(self, refused: CallRefused) -> CallRefused:
        told = refused.message.replace(self.ask.model.served_as, self.ask.name)
        return CallRefused(told, code=refused.code, param=refused.param, status=refused.status)

    def hold(self) -> None:
        """Stay at the replica after `ask_engine`: the answer goes on."""
        self._held = True

    async def committed(self) -> None:
        """Wait until the call's row is there. Raises DatabaseUnavailable."""
        if self.begun is not None:
            await asyncio.shield(self.begun)

    def token(self) -> None:
        """Note that the first token has come."""
        if self.first_token_at is None:
            self.first_token_at = monotonic()

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """A block that `cancel` and `gone` end.

        Raises:
            CallCancelled, ClientDisconnect: it was stopped so.
        """
        self._task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if self._stop is None:
                self.finish(Outcome.FAILED, STOPPED)
                raise
            assert self._task is not None
            self._task.uncancel()
            self.finish(Outcome.CANCELLED, _STOPS[self._stop])
            raise (ClientDisconnect if self._stop is Stop.GONE else CallCancelled) from None
        except ModelyardError as error:
            self.finish(Outcome.FAILED, _told(error), refused=error.status < HTTPStatus.INTERNAL_SERVER_ERROR)
            raise
        except BaseException:
            self.finish(Outcome.FAILED, BROKEN)
            raise
        finally:
            self._task = None

    def gone(self) -> None:
        """The client hung up."""
        self._halt(Stop.GONE)

    def cancel(self) -> None:
        """Its job was cancelled."""
        self._halt(Stop.CANCELLED)

    def _halt(self, stop: Stop) -> None:
        if self._stop is None and self._task is not None and not self._finished:
            self._stop = stop
            self._task.cancel()

    def finish(self, outcome: Outcome, error: JobError | None = None, *, refused: bool = False) -> None:
        """Record the end: the row, the figures, the cache's. Only the first one counts."""
        if self._finished:
            return
        self._finished = True
        self._calls.running.pop(self.id, None)
        self.found.close()
        self._rise()
        if self.begun is not None:
            ending = Ending(self.id, 1, outcome, error=error, permanent=True, usage=self._spent())
            self._calls.ledger.end(ending, begun=self.begun)
        self._observe(outcome, refused=refused)

    def _observe(self, outcome: Outcome, *, refused: bool) -> None:
        names = {Outcome.SUCCEEDED: "answered", Outcome.CANCELLED: "gone"}
        seat, (prompt, completion) = self._seat, self._tokens()
        metrics.observe(CallSeen(
            endpoint=self.ask.endpoint.name,
            outcome="refused" if refused else names.get(outcome, "failed"),
            seconds=monotonic() - self._began,
            digest=self.ask.model.served_as,
            gpu_class=seat.replica.gpu_class if seat else "none",
            wait_s=self._waited,
            first_token_s=None if self.first_token_at is None else self.first_token_at - self._began,
            prompt_tokens=prompt,
            completion_tokens=completion,
        ))  # fmt: skip

    def _sit(self, seat: Seat) -> None:
        """Be at a replica; the first time, write the row while the engine already works."""
        self._seat, self._seated_at = seat, monotonic()
        self._waited = self._waited if self._waited is not None else self._seated_at - self._began
        seat.calls += 1
        self._crowd = seat.calls
        if self.begun is None:
            self.begun = self._calls.ledger.begin(self._row(seat))
            self.begun.add_done_callback(_seen)

    def _rise(self) -> None:
        """Leave the replica. Its devices' time is shared by the calls that it had."""
        if self._crowd and self._seat is not None:
            together = (self._crowd + self._seat.calls) / 2
            self._gpu_s += (monotonic() - self._seated_at) * self._seat.replica.devices / together
            self._seat.calls -= 1
            self._crowd = 0

    def _row(self, seat: Seat) -> Placed:
        replica = seat.replica
        queue = queue_name(replica.gpu_class, Pool.SERVE)
        plan = {
            "gpu_class": replica.gpu_class,
            "queue": queue,
            "devices": replica.devices,
            "engine_id": str(replica.id),
            "reason": "placed on an engine that was ready",
        }
        return Placed(
            id=self.id,
            tenant_id=self.ask.tenant_id,
            kind=CALL,
            spec=self.ask.spec(),
            gpu_class=replica.gpu_class,
            queue=queue,
            devices=replica.devices,
            priority=self.ask.given.priority,
            plan=plan,
        )

    def _tokens(self) -> tuple[int, int]:
        """Of the prompt and the answer, as the engine counted them; of a stream that broke off, its chunks."""
        usage_, events = self.usage, self.events
        if usage_ is None and events is not None:
            usage_ = events.usage or {"completion_tokens": events.count}
        told = usage_ or {}
        return int(told.get("prompt_tokens") or 0), int(told.get("completion_tokens") or 0)

    def _spent(self) -> Usage:
        if self._seat is None:
            return Usage()
        prompt, completion = self._tokens()
        return usage.of_attempt(
            self._seat.replica.gpu_class, gpu_seconds=self._gpu_s, prompt_tokens=prompt, completion_tokens=completion
        )


def _told(error: ModelyardError) -> JobError:
    """The error as the row keeps it: what an engine says may quote the prompt, so only its code is."""
    title = (type(error).__doc__ or "").strip().split("\n", 1)[0]
    return JobError(code=error.code, title=title, retryable=error.retryable)


def _seen(begun: asyncio.Future[None]) -> None:
    """Whoever waits for it hears of it; a call that has ended need not."""
    if not begun.cancelled():
        begun.exception()
