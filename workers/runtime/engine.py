"""One engine as jobs see it: a model that answers, whatever becomes of the processes behind it."""

import asyncio
import re
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, Final

from shared.clock import monotonic
from shared.contracts.engine import EngineStats
from shared.contracts.jobs import JobError
from shared.contracts.serving import Mode
from shared.engine_client import EngineGone, Reply
from shared.telemetry import logger
from workers.runtime.aborting import POLL_S, lets_go
from workers.runtime.adapters import Adapters, Room
from workers.runtime.batching.values import Cost, Load
from workers.runtime.engine_process import EngineProcess
from workers.runtime.lane import Lane
from workers.runtime.post_mortem import EngineFailed
from workers.runtime.served import Adapter, ServedModel
from workers.runtime.sizing import Size
from workers.runtime.slots import SlotName
from workers.runtime.work import Work

DEATHS: Final = 3  # of engines under one request, after which the request is to blame
MOURN_S: Final = 1.0  # in which the end of a process is noticed after its socket broke
BUSY_WAIT_S: Final = 0.1  # the engine's own retry-after when it is full
BUSY = (429, 503)
COMPLETION: Final = re.compile(rb'"completion_tokens":\s*(\d+)')
RECENT_S: Final = 10.0
EXPECTED_S: Final = 5.0  # for callers who waited for it to ask

log = logger(__name__)


class Engine:
    """A model on devices. Processes come and go behind it; jobs ask it, gateways ask its processes."""

    def __init__(
        self,
        model: ServedModel,
        slots: Sequence[SlotName] = (),
        *,
        lane: Lane | None = None,
        kind: str = "transformers",
        modes: tuple[Mode, ...] = (Mode.GENERATE,),
        size: Size | None = None,
    ) -> None:
        self.model = model
        self.kind = kind
        self.modes = modes
        self.slots = tuple(slots)
        self.size = size or Size(in_flight=lane.size if lane else 1)
        self.lane = lane or self._new_lane()
        self.users: dict[Hashable, Adapter | None] = {}
        self.adapters = Adapters()
        self.adapter_errors: dict[str, JobError] = {}  #: why adapters that should be loaded ahead are not, by digest
        self.used_at = monotonic()
        self.process: EngineProcess | None = None
        self.stats: EngineStats | None = None  #: of the process, at most a few seconds old
        self.load_s: float | None = None
        self.peak_bytes = 0  #: of memory, of its processes so far
        self.gpu_utilisation: float | None = None
        self.deaths = 0  #: since the last answer
        self.restarts = 0
        self.stopping = False
        self.yielding = False  #: told to leave its devices to somebody else for a while
        self.renewing = False  #: its process ends to come again, started otherwise
        self.keeper: asyncio.Task[None] | None = None
        self.noted_idle = False  #: what `idle` was when its figures were last noted
        self._placed = asyncio.Event()  # has its slots, or is given up
        self._settled = asyncio.Event()  # ready, or given up
        self._failed: JobError | None = None
        self._expecting_until = 0.0
        self._others = 0  # sequences of interactive calls, when it was last asked
        if slots:
            self._placed.set()

    @property
    def idle(self) -> bool:
        """Whether nobody would miss it now."""
        held = self.stats is not None and self.stats.running + self.stats.waiting > 0
        return not (self.users or held or monotonic() < self._expecting_until)

    @property
    def kv_used(self) -> float:
        """Share of the KV cache that sequences hold, 0 to 1."""
        total = self.stats.kv_blocks_total if self.stats else 0
        return round(1 - self.stats.kv_blocks_free / total, 4) if self.stats and total else 0.0

    @property
    def demand(self) -> tuple[int, float]:
        """How much it is wanted; the least is asked first to make room."""
        asked = 0 if self.stats is None else self.stats.running + self.stats.waiting
        return max(asked, self.lane.in_flight) + len(self.users), self.used_at

    @property
    def leaving(self) -> bool:
        """Whether it answers only what it has."""
        return self.stopping or self.yielding or self.renewing

    @property
    def adapters_used(self) -> set[str]:
        """Digests of the adapters that jobs and demands hold."""
        return {each.digest for each in self.users.values() if each is not None}

    @property
    def missed(self) -> bool:
        """Whether a process that died has to come again: somebody waits for it, or used it a moment ago."""
        return not self.idle or self.model.serving.pinned or monotonic() - self.used_at < RECENT_S

    def sit(self, slots: Sequence[SlotName]) -> None:
        """It has its devices."""
        self.slots = tuple(slots)
        self._placed.set()

    def stand(self) -> Sequence[SlotName]:
        """It leaves its devices; which they were."""
        left, self.slots = self.slots, ()
        self._placed.clear()
        return left

    def resize(self, size: Size) -> None:
        """The next process is of another size."""
        self.size = size
        self.lane = self._new_lane()

    def serve(self, model: ServedModel) -> None:
        """Know the model better: its serving options may have changed."""
        changed, self.model = model.serving.batching != self.model.serving.batching, model
        if changed:
            self.lane = self._new_lane()

    def _new_lane(self) -> Lane:
        """A lane of this size; whoever waits in the one before fails with its process and asks again."""
        batching = self.model.serving.batching
        return Lane(self.size.in_flight, devices=self.size.slots, batching=batching, load=self.load)

    def load(self) -> Load | None:
        """What the engine has to do besides its lane, for the batcher; None when nobody knows."""
        if self.stats is None:
            return None
        return Load(interactive=self._others, waiting=self.stats.waiting, kv_used=self.kv_used)

    def up(
        self, process: EngineProcess, *, changed: Callable[[], None] = lambda: None, room: Room | None = None
    ) -> None:
        """A process admits requests; `changed` is called when it has other adapters, which fill `room`."""
        self.process = process
        self.adapters = Adapters(changed=changed, room=room)
        if self.stats is not None:
            self.adapters.read(self.stats)
        self._settled.set()

    def down(self) -> None:
        """The process is gone, or leaves; another one may come."""
        self.process, self.stats, self._others = None, None, 0
        self._settled.clear()

    async def look(self, process: EngineProcess) -> None:
        """Ask the process how it is. Raises EngineGone, TimeoutError, or ValueError when it tells no figures."""
        self.note(await process.stats())

    def note(self, stats: EngineStats) -> None:
        """The process's newest figures."""
        if stats.running + stats.waiting or (self.stats and self.stats.tokens_generated < stats.tokens_generated):
            self.used_at = monotonic()
        if self.stats and self.stats.tokens_generated < stats.tokens_generated:
            self.deaths = 0  # it answers: what killed the ones before is over
        self.stats = stats
        self.adapters.note(stats)
        self.noted_idle = self.idle
        self.peak_bytes = max(self.peak_bytes, stats.memory_bytes)
        self._others = max(0, stats.running + stats.waiting - self.lane.lately)

    def give_up(self, error: JobError) -> None:
        """No process will come any more; whoever waits is told why."""
        self.process, self._failed = None, error
        self._placed.set()
        self._settled.set()

    async def placed(self) -> None:
        """Wait until it has its devices.

        Raises:
            EngineFailed: it never will.
        """
        await self._placed.wait()
        if self._failed is not None:
            raise EngineFailed(self._failed)

    async def ready(self) -> EngineProcess:
        """The process that admits requests, as soon as there is one.

        Raises:
            EngineFailed: it keeps dying, or cannot load the model.
        """
        while self.process is None or self.yielding:
            if self._failed is not None:
                raise EngineFailed(self._failed)
            await self._settled.wait()
            if self.yielding:
                await asyncio.sleep(POLL_S)
        return self.process

    async def ask(self, work: Work, path: str, body: Any, *, cost: Cost | None = None) -> Reply:
        """One request in the job's turn, sent again when the engine dies under it; `cost` is what it may take.

        Raises:
            EngineFailed: engines died `DEATHS` times under this request, or none comes up, or the job's adapter
                cannot be loaded.
        """
        deaths, adapter = 0, self.users.get(work)
        if adapter is not None:
            body = {**body, "model": adapter.digest}
        while deaths < DEATHS:
            process = await self.ready()
            try:
                if adapter is not None:
                    await self._ensure(process, adapter)
                async with self.lane.turn(work, cost=cost) as turn:
                    reply = await process.client.post(path, body)
                    turn.output_tokens = _output_tokens(reply)
            except EngineGone:
                deaths += 1
                await self._mourn(process)
                continue
            if reply.status in BUSY:
                await asyncio.sleep(BUSY_WAIT_S)
                continue
            self.deaths = 0
            return reply
        raise EngineFailed(
            JobError(code="engine_failed", title="The engine died repeatedly under this job", retryable=True)
        )

    async def prepare(self, user: Hashable) -> None:
        """Wait until it admits requests, and has the user's adapter.

        Raises:
            EngineFailed: it never will.
        """
        while True:
            process, adapter = await self.ready(), self.users.get(user)
            try:
                if adapter is not None:
                    await self._ensure(process, adapter)
            except EngineGone:
                await self._mourn(process)
                continue
            return

    async def _ensure(self, process: EngineProcess, adapter: Adapter) -> None:
        await self.adapters.ensure(process, adapter, used=lambda: self.adapters_used, size=self.size.adapter)
        self.adapter_errors.pop(adapter.digest, None)

    async def _mourn(self, process: EngineProcess) -> None:
        """Wait until the keeper has noticed that the process is gone; one that lives only dropped the connection."""
        deadline = monotonic() + MOURN_S
        while self.process is process and monotonic() < deadline:  # noqa: ASYNC110 - bounded by the clock
            await asyncio.sleep(POLL_S)

    def expect(self) -> None:
        """Callers of gateways are about to ask it: it is not idle until they have had a moment."""
        self._expecting_until = monotonic() + EXPECTED_S

    async def let_go(self) -> bool:
        """Whether nobody holds anything in it, asked of itself just now."""
        if self.process is not None:
            with suppress(EngineGone, TimeoutError, ValueError):
                await self.look(self.process)
        return self.idle

    async def leave(self, *, within_s: float) -> None:
        """Answer what it has, then end its process."""
        process = self.process
        if process is None:
            return
        with suppress(EngineGone, TimeoutError, ValueError):
            async with asyncio.timeout(within_s):
                while (stats := await process.stats()).running + stats.waiting:  # noqa: ASYNC110 - HTTP has no event
                    await asyncio.sleep(POLL_S)  # bounded by the clock
        await process.stop()

    async def forget_aborted(self, *, within_s: float) -> None:
        """Wait until the engine holds no more requests than the lane does; kill it when it does not let go in time."""
        process = self.process
        if process is None:
            return
        if not await lets_go(process, lambda: self.lane.in_flight, others=self._others, within_s=within_s):
            log.error("engine does not abort", extra={"engine": str(process.id)})
            await process.kill()


def _output_tokens(reply: Reply) -> int | None:
    """Tokens of an answer, read without parsing it: the job will parse it anyway."""
    found = COMPLETION.findall(reply.body)
    return int(found[-1]) if found else None
