"""One forge: an exclusive job in processes of its own, with a folder, a spec and nothing else.

It is asked to stop with SIGTERM, answers with a checkpoint if it has any, and is killed with all its processes when it
does not. Its slots are free as soon as it has ended: what it made is stored afterwards.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.jobs import lifecycle
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
)
from shared.contracts.jobs import JobError, Pool
from shared.errors import DatabaseUnavailable
from shared.telemetry import logger
from workers.runtime import checkpoints, forge_files, scratch
from workers.runtime.forge_process import ForgeProcess
from workers.runtime.host import Host
from workers.runtime.slots import CPU, SlotName
from workers.runtime.work import Finish, JobFailed, Stop, Work

NICE: Final = 10  # on a CPU, so that chat stays alive while a forge runs
LOG_EVERY_S: Final = 1.0
LOG_LINES: Final = 10_000  # kept of one attempt
LOG_BURST: Final = 200  # kept of one second

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


async def run_forge(
    work: Work, host: Host, *, module: str, prepare: Prepare | None = None, conclude: Conclude | None = None
) -> Finish:
    """Run a forge module for a claim, from its inputs to its artifacts.

    `prepare` fetches what the forge reads; without it the forge is told the job's own spec. `conclude` decides what
    is stored of what the forge made, once its slots are free again; without it, every artifact that it named.

    Raises:
        JobFailed: the forge said why, or died; or this host's disk is full.
        Fenced: another attempt owns the job.
    """
    forge = _Forge(work, host)
    try:
        async with forge_files.space_told():
            spec = await forge.prepare(prepare)
            made = await forge.run(module, spec)
            if conclude is None:
                return await forge.keep(made)
            if work.stop is not None:
                raise asyncio.CancelledError  # it was done in the same breath
            finish = await conclude(made)
            work.finishing = True  # a halt would come too late, and lose what undoes it
            return finish
    finally:
        await scratch.discard(forge.folder)


def below(folder: Path, relative: str) -> Path:
    """A path in a folder. Raises ValueError when it leaves it."""
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(relative)
    return path


class _Forge:
    def __init__(self, work: Work, host: Host) -> None:
        self.folder = host.folders.attempt(work.id, work.claim.attempt)
        self._work = work
        self._host = host
        self._out = self.folder / "out"
        self._artifacts: list[ArtifactMessage] = []
        self._done: DoneMessage | None = None
        self._error: JobError | None = None
        self._logs: list[tuple[str, str]] = []
        self._logged = 0

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
            hopeless = self._error is not None and not self._error.retryable
            raise JobFailed(self._error or process.death(status), permanent=hopeless)

    async def _drive(self, process: ForgeProcess) -> None:
        """Handle every message until the pipe closes, and wait for the process."""
        logging = asyncio.get_running_loop().create_task(self._write_logs())
        try:
            async for message in process.messages():
                await self._handle(message)
        finally:
            logging.cancel()
            await self._flush_logs()
        await process.ended()

    async def _handle(self, message: Message) -> None:
        match message:
            case ProgressMessage():
                self._work.progress(message.done, message.total, message.unit)
            case LogMessage():
                self._note(message.level, message.message)
            case MetricMessage():
                values = " ".join(f"{name}={value:.6g}" for name, value in message.values.items())
                self._note("info", f"step {message.step}: {values}")
            case CheckpointMessage():
                await checkpoints.keep(self._work, self._host, below(self._out, message.folder), step=message.step)
            case ArtifactMessage():
                self._artifacts.append(message)
            case DoneMessage():
                self._done = message
            case ErrorMessage():
                self._error = self._error or message.error  # of several ranks, the first that fell

    async def _end(self, process: ForgeProcess, driving: "asyncio.Future[None]") -> None:
        """SIGTERM, time to write a checkpoint, SIGKILL of all. Returns when nothing is read from it any more."""
        grace_s = {Stop.FENCED: 0.0, Stop.DRAIN: self._host.settings.drain_grace_s}.get(
            self._work.stop or Stop.CANCEL, self._host.settings.cancel_term_s
        )
        process.signal(signal.SIGTERM)
        hurried = asyncio.ensure_future(self._host.hurried.wait())
        waited: set[asyncio.Future[Any]] = {driving, hurried}
        await asyncio.wait(waited, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not driving.done():
            log.warning("forge is killed", extra={"job": str(self._work.id), "grace_s": grace_s})
            process.signal(signal.SIGKILL)
            driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)

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

    def _note(self, level: str, message: str) -> None:
        if self._logged < LOG_LINES and len(self._logs) < LOG_BURST:
            self._logs.append((level, message))
            self._logged += 1

    async def _write_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_EVERY_S)
            await self._flush_logs()

    async def _flush_logs(self) -> None:
        lines, self._logs = self._logs, []
        if lines:
            with suppress(DatabaseUnavailable):  # a log line is not worth waiting for
                await self._host.transactions.run(lambda session: lifecycle.add_logs(session, self._work.claim, lines))
