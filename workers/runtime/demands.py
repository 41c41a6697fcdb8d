"""Models that callers wait for: claimed here, answered with an engine that is ready, or with the reason why not."""

import asyncio
from collections.abc import Callable
from typing import Final

from services.inference import service as inference
from services.placement import service as placement
from services.placement.types import Demand
from shared.contracts.jobs import JobError
from shared.db.listen import POLL_S
from shared.errors import DatabaseUnavailable, ModelyardError
from shared.telemetry import logger
from workers.runtime.host import Host
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.presence import Presence

CHANNEL: Final = "demands"  #: payload: the queue whose workers may answer
LARGEST_CLAIM: Final = 8
AHEAD_WAIT_S: Final = 5.0  # for devices of an engine that nobody waits for; others who ask wait behind it meanwhile

log = logger(__name__)


class Demands:
    """Answers the demands of one queue. Used on the runner's loop."""

    def __init__(self, host: Host, queue: str, *, presence: Presence, accepting: Callable[[], bool]) -> None:
        self._host = host
        self._queue = queue
        self._presence = presence
        self._accepting = accepting
        self._bell = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()

    def ring(self, queue: str = "") -> None:
        """There may be demands; an empty name means any queue."""
        if queue in ("", self._queue):
            self._bell.set()

    async def run(self) -> None:
        """Claim and answer demands, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._bell.wait()
            except TimeoutError:
                pass
            self._bell.clear()
            if self._accepting():
                for demand in await self._claim():
                    answering = asyncio.create_task(self._answer(demand))
                    self._answering.add(answering)
                    answering.add_done_callback(self._answering.discard)

    def close(self) -> None:
        """Answer nothing more; what was claimed is free again when this worker's row has ended."""
        for answering in self._answering:
            answering.cancel()

    async def _claim(self) -> list[Demand]:
        worker_id = self._presence.id
        try:
            return await self._host.transactions.run(
                lambda session: placement.claim(session, worker_id, queue=self._queue, limit=LARGEST_CLAIM)
            )
        except DatabaseUnavailable:
            return []

    async def _answer(self, demand: Demand) -> None:
        """Have an engine of the model ready, and its adapter loaded."""
        try:
            await self._serve(demand)
        except EngineFailed as failure:
            await self._refuse(demand, failure.error)
        except ModelyardError as error:
            await self._refuse(demand, JobError(code=error.code, title=error.message, retryable=error.retryable))
        except TimeoutError:
            if demand.ahead:
                await self._host.transactions.insist(lambda session, _: placement.drop(session, demand))
                return
            title = "Every engine of this worker's devices is in use"
            await self._refuse(demand, JobError(code="engine_unavailable", title=title, retryable=True))
        except Exception as error:
            log.exception("demand failed")
            await self._refuse(demand, JobError(code="engine_failed", title=type(error).__name__, retryable=True))

    async def _serve(self, demand: Demand) -> None:
        stored = await self._host.transactions.run(
            lambda session: inference.served(session, demand.tenant_id, demand.model_id)
        )
        placing = asyncio.timeout(self._patience_s(demand))
        async with (
            placing,
            self._host.engines.use(
                demand, self._host.served(stored), devices=demand.devices, mode=demand.mode
            ) as engine,
        ):
            placing.reschedule(None)  # it has its devices; how long it may take to start is the engine's own limit
            await engine.prepare(demand)
            engine.expect()
            if engine.stats is not None and demand.mode not in engine.stats.modes:
                title = f"Engine {engine.kind} does not serve mode {demand.mode}"
                raise EngineFailed(JobError(code="engine_unavailable", title=title, retryable=False))
            await self._presence.written()  # the engine's row first: callers look for it as soon as the demand is gone
            await self._host.transactions.insist(lambda session, _: placement.settle(session, demand))
        log.info("demand met", extra={"model": stored.digest, "mode": demand.mode})

    def _patience_s(self, demand: Demand) -> float:
        """How long it may wait for devices: what nobody waits for is given up before engines in use have to leave."""
        settings = self._host.settings
        if not demand.ahead:
            return settings.place_wait_s
        return min(AHEAD_WAIT_S, settings.place_wait_s, settings.engine_yield_s / 2)

    async def _refuse(self, demand: Demand, error: JobError) -> None:
        log.warning("demand refused", extra={"model_id": str(demand.model_id), "code": error.code})
        await self._host.transactions.insist(lambda session, _: placement.refuse(session, demand, error=error))
