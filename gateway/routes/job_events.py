"""`/v1/jobs/{id}/events`: numbered events, as a page or as they happen."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from sqlalchemy.orm import Session
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from gateway.deps import PAGE, JobId, Limit
from gateway.edge import edge_of
from gateway.routing import Route, authenticate, caller_of, needs
from gateway.schemas.common import Page
from gateway.schemas.job_parts import EventOut
from gateway.streams import LIFE_S, PING, PING_S, RECHECK_S, message
from services.accounts.service import Scope
from services.jobs import repository, service
from shared.clock import monotonic
from shared.contracts.jobs import State
from shared.db.models import JobEvent
from shared.errors import Unauthorized, Unavailable

EVENT_STREAM = "text/event-stream"
SLOWEST_S = 30.0  #: a reader may lag behind the end of a stream's life by so much

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], route_class=Route)
LastEventId = Annotated[int | None, Header(ge=0, lt=2**31, alias="Last-Event-ID")]


@router.get(
    "/events",
    response_model=Page[EventOut],
    responses={200: {"content": {EVENT_STREAM: {}}, "description": "a page, or a stream when asked for one"}},
    openapi_extra=needs(Scope.JOBS_READ),
)
async def list_events(
    request: Request,
    job_id: JobId,
    *,
    limit: Limit = 20,
    after: Annotated[int, Query(ge=0, lt=2**31, description="number of the event before the page")] = 0,
    accept: Annotated[str, Header(description="`text/event-stream` for events as they happen")] = "",
    last_event_id: LastEventId = None,
) -> Response:
    """Events, oldest first. A stream goes on after `Last-Event-ID`, and ends after the job's terminal event."""
    after = after if last_event_id is None else last_event_id
    follower = Follower(request, job_id, after=after)
    if EVENT_STREAM in accept:
        await follower.read(limit=0)
        return EventStream(follower)
    limit = min(limit, PAGE)
    seen = await follower.read(limit=limit + 1)
    page = Page[EventOut].of(seen.events, limit=limit, shown=EventOut.of)
    return Response(page.json_bytes(), media_type="application/json")


@dataclass(frozen=True)
class Seen:
    """Events of a job, and whether it had ended when they were read."""

    events: list[JobEvent]
    ended: bool


class Follower:
    """Reads a job's events on behalf of one request."""

    def __init__(self, request: Request, job_id: UUID, *, after: int) -> None:
        self._request = request
        self.edge = edge_of(request)
        self._job_id = job_id
        self._after = after
        self.caller = caller_of(request)

    async def read(self, *, limit: int) -> Seen:
        """Events behind the last one that was sent.

        Raises:
            NotFound: no such job, or another tenant's.
        """

        def look(session: Session) -> Seen:
            tenant_id = self.caller.tenant_id
            job = service.get(session, tenant_id, self._job_id)
            rows = repository.events(session, tenant_id, self._job_id, after=self._after, limit=limit) if limit else []
            return Seen(rows, State(job.state).terminal)

        return await self.edge.transact(look)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream. It ends with the job, after `LIFE_S`, when the key is revoked, or when we are closing."""
        death = monotonic() + LIFE_S
        ping = recheck = monotonic()
        with self.edge.watch.on(self._job_id) as bell:
            while (now := monotonic()) < death and not self.edge.watch.closing:
                if now >= recheck:
                    recheck = now + RECHECK_S
                    if not await self._welcome():
                        return
                seen = await self._read_or_wait()
                for row in seen.events:
                    self._after = row.seq
                    yield message(id=row.seq, event=row.type, data=EventOut.of(row).json_bytes())
                if seen.ended and len(seen.events) < PAGE:
                    return
                if now >= ping:
                    ping = now + PING_S
                    yield PING
                if not seen.events:
                    await bell.wait(until=min(ping, death))

    async def _read_or_wait(self) -> Seen:
        """A database that is away ends no stream: there is nothing new until it is back."""
        try:
            return await self.read(limit=PAGE)
        except Unavailable:
            return Seen([], ended=False)

    async def _welcome(self) -> bool:
        try:
            await authenticate(self._request)
        except Unavailable:
            return True
        except Unauthorized:
            return False
        return True


class EventStream(StreamingResponse):
    """A follower's chunks, as long as there is a place for one more stream."""

    def __init__(self, follower: Follower) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(follower.chunks(), media_type=EVENT_STREAM, headers=headers)
        self._follower = follower

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        with self._follower.edge.streams.opened(self._follower.caller), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIFE_S + SLOWEST_S):
                await super().__call__(scope, receive, send)
