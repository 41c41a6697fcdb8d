"""One forge: an exclusive job in processes of its own, with a folder, a spec and nothing else.

It is asked to stop with SIGTERM, answers with a checkpoint if it has any, and is killed with all its processes when it
does not. Its slots are free as soon as it has ended: what it made is stored afterwards. Checkpoints are stored while it
works on (`checkpoints.Keeper`), figures and log lines are written beside it (`forge_told.Told`).
"""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from shared import failpoints
from shared.clock import monotonic
from shared.contracts.forge import (
    ArtifactMessage,
    CheckpointMessage,
    DoneMessage,
    ErrorMessage,
    ForgeSpec,
    LogMessage,
    Message,
    MetricMessage,
    ProgressMessage,
    SettingMessage,
)
from shared.contracts.jobs import JobError, Pool
from shared.telemetry import logger
from workers.runtime import checkpoints, forge_files, scratch
from workers.runtime.checkpoints import Policy, Written
from workers.runtime.forge_process import ForgeProcess
from workers.runtime.forge_told import Told
from workers.runtime.host import Host
from workers.runtime.slots import CPU, SlotName
from workers.runtime.work import Finish, JobFailed, Stop, Work

NICE: Final = 10  # on a CPU, so that chat stays alive while a forge runs

log = logger(__name__)


@dataclass(frozen=True)
class Made:
    """What a forge has left below `out`, and said of it."""

    out: Path
    result: dict[str, Any]
    artifacts: Sequence[ArtifactMessage] = ()

    def path(self, relative: str) -> Path:
        """A path that the forge named. Raises ValueError when it leaves `out`."""
        return below(self.out, relative)


Prepare = Callable[[Path], Awaitable[dict[str, Any]]]  #: (empty folder for inputs) → what the forge is told
Conclude = Callable[[Made], Awaitable[Finish]]
Heard = Callable[[dict[str, Any]], None]  #: is told the setting that a forge has decided on


async def run_forge(
    work: Work,
    host: Host,
    *,
    module: str,
    prepare: Prepare | None = None,
    conclude: Conclude | None = None,
    policy: Policy = Policy(),  # noqa: B008 - immutable
    heard: Heard = lambda _: None,
) -> Finish:
    """Run a forge module for a claim, from its inputs to its artifacts.

    `prepare` fetches what the forge reads; without it the forge is told the job's own spec. `conclude` decides what
    is stored of what the forge made, once its slots are free again; without it, every artifact that it named. `policy`
    is what becomes of its checkpoints. However it ends, the checkpoints that it has written are stored first.

    Raises:
        JobFailed: the forge said why, or died; or this host's disk is full.
        Fenced: another attempt owns the job.
    """
    forge = _Forge(work, host, policy=policy, heard=heard)
    try:
        async with forge_files.space_told():
            spec = await forge.prepare(prepare)
            async with forge.settling():
                made = await forge.run(module, spec)
            if conclude is None:
                return await forge.keep(made)
            if work.stop is not None:
                raise asyncio.CancelledError  # it was done in the same breath
            finish = await conclude(made)
            work.finishing = True  # a halt would come too late, and lose what undoes it
            return finish
    finally:
        await forge.close()
        await scratch.discard(forge.folder)


def below(folder: Path, relative: str) -> Path:
    """A path in a folder. Raises ValueError when it leaves it."""
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(relative)
    return path


class _Forge:
    def __init__(self, work: Work, host: Host, *, policy: Policy, heard: Heard) -> None:
        self.folder = host.folders.attempt(work.id, work.claim.attempt)
        self._work = work
        self._host = host
        self._heard = heard
        self._told = Told(work, host)
        self._keeper = checkpoints.Keeper(work, host, policy, note=self._told.note, first=self._told.catch_up)
        self._out = self.folder / "out"
        self._artifacts: list[ArtifactMessage] = []
        self._done: DoneMessage | None = None
        self._error: JobError | None = None
        self._grace_until: float | None = None  #: on the monotonic clock, once it is asked to stop

    async def prepare(self, prepare: Prepare | None) -> ForgeSpec:
        shutil.rmtree(self.folder, ignore_errors=True)
        inputs = self.folder / "in"
        for path in (inputs, self._out):
            path.mkdir(mode=0o700, parents=True)
        if prepare is not None:
            scratch.claim(self.folder)  # it takes a while: nobody sweeps it up meanwhile
        on_cpu = self._work.claim.gpu_class == CPU
        return ForgeSpec(
            spec=await prepare(inputs) if prepare else self._work.claim.spec,
            inputs=inputs,
            out=self._out,
            fingerprint=checkpoints.fingerprint(self._work.claim),
            resume=await checkpoints.resume(self._work, self._host, inputs),
            threads=os.cpu_count() or 1,
            nice=NICE if on_cpu else 0,
            parent_pid=os.getpid(),
        )

    async def run(self, module: str, spec: ForgeSpec) -> Made:
        """Take the slots, and hold them for as long as anything of the forge runs."""
        slots = await self._host.devices.take(Pool.FORGE, self._work.claim.devices, residents=self._host.engines)
        try:
            await self._run(module, spec, slots)
        finally:
            self._host.devices.give_back(slots)
        assert self._done is not None
        return Made(self._out, self._done.result, tuple(self._artifacts))

    @asynccontextmanager
    async def settling(self) -> AsyncIterator[None]:
        """Have checkpoints and figures written behind the block; of a halted work's, what its grace allows."""
        try:
            try:
                yield
            except JobFailed:
                await self._settle()
                raise
            await self._settle()
        except asyncio.CancelledError:
            late = asyncio.ensure_future(self._settle())
            await self._in_grace(late)
            late.cancel()
            await asyncio.gather(late, return_exceptions=True)
            raise

    async def close(self) -> None:
        """Nothing of it is stored or written any more when this returns."""
        await self._keeper.close()

    async def _settle(self) -> None:
        await self._told.settle()
        await self._keeper.settled()
        await self._told.flush()  # what was not kept

    async def _run(self, module: str, spec: ForgeSpec, slots: Sequence[SlotName]) -> None:
        started = monotonic()
        locks = self._host.devices.slots.descriptors(slots)
        logged = self._host.folders.logs / "forge.log"
        process = ForgeProcess.start(module, spec, folder=self.folder, log=logged, slots=slots, locks=locks)
        log.info("forge started", extra={"job": str(self._work.id), "pid": process.pid, "forge": module})
        driving = asyncio.ensure_future(self._drive(process))
        try:
            await asyncio.shield(driving)
        except asyncio.CancelledError:
            await self._end(process, driving)
            if not self._done:
                raise
        finally:
            status = await process.finish()
            driving.cancel()
            self._work.gpu_seconds += (monotonic() - started) * len(slots)
        if not self._done:
            raise self._failure(process, status)

    def _failure(self, process: ForgeProcess, status: int) -> JobFailed:
        if self._error is None:
            return process.death(status)
        return JobFailed(self._error, permanent=not self._error.retryable)

    async def _drive(self, process: ForgeProcess) -> None:
        """Handle every message until the pipe closes, and wait for the process."""
        telling = asyncio.get_running_loop().create_task(self._told.run())
        try:
            async for message in process.messages():
                self._handle(message)
        finally:
            telling.cancel()
            await asyncio.wait([telling])
        await process.ended()

    def _handle(self, message: Message) -> None:
        match message:
            case ProgressMessage():
                self._work.progress(message.done, message.total, message.unit)
            case LogMessage():
                self._told.note(message.level, message.message)
            case MetricMessage():
                self._told.measure(message.step, message.values)
            case SettingMessage():
                self._heard(message.setting)
            case CheckpointMessage():
                folder = below(self._out, message.folder)
                self._keeper.add(Written(folder, message.step, message.metrics, message.best))
            case ArtifactMessage():
                self._artifacts.append(message)
            case DoneMessage():
                self._done = message
            case ErrorMessage():
                self._error = self._error or message.error  # of several ranks, the first that fell

    async def _end(self, process: ForgeProcess, driving: "asyncio.Future[None]") -> None:
        """SIGTERM, time to write a checkpoint, SIGKILL of all. Returns when nothing is read from it any more."""
        process.signal(signal.SIGTERM)
        await self._in_grace(driving)
        if not driving.done():
            log.warning("forge is killed", extra={"job": str(self._work.id)})
            process.signal(signal.SIGKILL)
            driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)

    @property
    def _grace_s(self) -> float:
        """What a halted work has to save itself: whoever cancels waits for it, whoever pauses does not."""
        settings = self._host.settings
        patient = {Stop.FENCED: 0.0, Stop.DRAIN: settings.drain_grace_s, Stop.HOLD: settings.drain_grace_s}
        return patient.get(self._work.stop or Stop.CANCEL, settings.cancel_term_s)

    async def _in_grace(self, waited: "asyncio.Future[None]") -> None:
        """Wait until something is done, for as long as the grace of a halted work lasts."""
        if self._grace_until is None:
            self._grace_until = monotonic() + self._grace_s
        hurried: asyncio.Future[Any] = asyncio.ensure_future(self._host.hurried.wait())
        left_s = max(0.0, self._grace_until - monotonic())
        ends: set[asyncio.Future[Any]] = {waited, hurried}
        await asyncio.wait(ends, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()

    async def keep(self, made: Made) -> Finish:
        """Store every artifact that the forge named; their rows come with the end of the job."""
        claim = self._work.claim
        stored = await self._host.insist(lambda: self._upload(made))
        failpoints.hit("finish.after_upload")

        def write(session: Session) -> None:
            for new in stored:
                artifacts.add(session, new, tenant_id=claim.tenant_id, job_id=claim.job_id, attempt=claim.attempt)

        return self._work.succeeded(write)

    def _upload(self, made: Made) -> list[NewArtifact]:
        store, tenant_id = self._host.store, self._work.claim.tenant_id
        return [
            forge_files.put(
                store, tenant_id, made.path(told.path), name=told.name, media_type=told.media_type, position=position
            )
            for position, told in enumerate(made.artifacts)
        ]
