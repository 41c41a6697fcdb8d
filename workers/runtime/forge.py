"""One forge process: an exclusive job in a process group of its own, with a folder, a spec and nothing else.

Its messages come as JSON lines on a pipe; its stdin is a pipe of ours that breaks with us. It is asked to stop with
SIGTERM, answers with a checkpoint, and is killed as a group when it does not.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.jobs import lifecycle
from shared import failpoints
from shared.clock import monotonic
from shared.contracts.forge import (
    EXIT_STOPPED,
    LINE_BYTES,
    MESSAGE,
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
from shared.embedded.layout import open_log, write_private
from shared.errors import DatabaseUnavailable
from shared.settings import passed_on
from shared.telemetry import logger
from workers.runtime import checkpoints, scratch
from workers.runtime.host import Host
from workers.runtime.processes import Identity, Note, exited, signal_group
from workers.runtime.slots import CPU, VISIBLE, SlotName, visible_devices
from workers.runtime.work import Finish, JobFailed, Stop, Work

NICE: Final = 10  # on a CPU, so that chat stays alive while a forge runs
LOG_EVERY_S: Final = 1.0
LOG_LINES: Final = 10_000  # kept of one attempt
LOG_BURST: Final = 200  # kept of one second
OOM_COUNTER: Final = Path("/sys/fs/cgroup/memory.events")
PYTHON: Final = (sys.executable, "-I", "-m")  # isolated: nothing in the job's folder or environment is imported

log = logger(__name__)


async def run_forge(work: Work, host: Host, *, module: str) -> Finish:
    """Run a forge module for a claim, from its slot to its artifacts.

    Raises:
        JobFailed: the forge said why, or died.
        Fenced: another attempt owns the job.
    """
    slots = await host.devices.take(Pool.FORGE, work.claim.devices, residents=host.engines)
    folder = host.folders.attempt(work.id, work.claim.attempt)
    try:
        return await _Forge(work, host, folder, slots).run(module)
    finally:
        host.devices.give_back(slots)
        await scratch.discard(folder)


class _Forge:
    def __init__(self, work: Work, host: Host, folder: Path, slots: Sequence[SlotName]) -> None:
        self._work = work
        self._host = host
        self._folder = folder
        self._slots = slots
        self._out = folder / "out"
        self._artifacts: list[ArtifactMessage] = []
        self._done = False
        self._error: JobError | None = None
        self._logs: list[tuple[str, str]] = []
        self._logged = 0

    async def run(self, module: str) -> Finish:
        spec = await self._prepare()
        ooms = _oom_kills()
        started = monotonic()
        process = self._start(module, spec)
        driving = asyncio.ensure_future(self._drive(process))
        try:
            await asyncio.shield(driving)
        except asyncio.CancelledError:
            await self._end(process, driving)
            if not self._done:
                raise
        finally:
            signal_group(process.pid, signal.SIGKILL)  # what its children left
            await exited(process.pid)
            status = process.wait()
            process.stdin.close()  # type: ignore[union-attr]  # a pipe, see _start
            driving.cancel()
            self._work.gpu_seconds += (monotonic() - started) * len(self._slots)
        if not self._done:
            raise JobFailed(self._error or _death(status, oom=_oom_kills() > ooms), permanent=self._hopeless())
        return await self._finish()

    def _hopeless(self) -> bool:
        return self._error is not None and not self._error.retryable

    async def _prepare(self) -> ForgeSpec:
        shutil.rmtree(self._folder, ignore_errors=True)
        inputs = self._folder / "in"
        for path in (inputs, self._out):
            path.mkdir(mode=0o700, parents=True)
        on_cpu = self._work.claim.gpu_class == CPU
        cores = os.cpu_count() or 1
        return ForgeSpec(
            spec=self._work.claim.spec,
            inputs=inputs,
            out=self._out,
            fingerprint=checkpoints.fingerprint(self._work.claim),
            resume=await checkpoints.resume(self._work, self._host, inputs),
            threads=max(1, cores // 2) if on_cpu else cores,
            nice=NICE if on_cpu else 0,
            parent_pid=os.getpid(),
        )

    def _start(self, module: str, spec: ForgeSpec) -> "subprocess.Popen[bytes]":
        path = self._folder / "spec.json"
        write_private(path, spec.model_dump_json())
        written = open_log(self._host.folders.logs / "forge.log")
        try:
            process = subprocess.Popen(
                [*PYTHON, module, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                env=visible_devices(self._slots, inherited=passed_on([VISIBLE]).get(VISIBLE)),
                cwd=self._folder,
                start_new_session=True,
                pass_fds=self._host.devices.slots.descriptors(self._slots),
            )
        finally:
            os.close(written)
        identity = Identity.of(process.pid)
        Note(process=identity, worker=Identity.of(os.getpid())).write(self._folder)
        log.info("forge started", extra={"job": str(self._work.id), "pid": process.pid, "forge": module})
        return process

    async def _drive(self, process: "subprocess.Popen[bytes]") -> None:
        """Handle every message until the pipe closes, and wait for the process."""
        assert process.stdout is not None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=LINE_BYTES)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
        logging = loop.create_task(self._write_logs())
        try:
            while line := await reader.readline():
                await self._handle(MESSAGE.validate_json(line))
        except ValueError as error:  # pydantic's and asyncio's: no message of ours, or too long a line
            told = JobError(code="forge_protocol", title="The forge wrote something that is no message")
            raise JobFailed(told) from error
        finally:
            transport.close()
            logging.cancel()
            await self._flush_logs()
        await exited(process.pid)

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
                await checkpoints.keep(self._work, self._host, self._below(message.folder), step=message.step)
            case ArtifactMessage():
                self._artifacts.append(message)
            case DoneMessage():
                self._done = True
            case ErrorMessage():
                self._error = message.error

    async def _end(self, process: "subprocess.Popen[bytes]", driving: "asyncio.Future[None]") -> None:
        """SIGTERM, time to write a checkpoint, SIGKILL of the group. Returns when nothing of it runs any more."""
        grace_s = {Stop.FENCED: 0.0, Stop.DRAIN: self._host.settings.drain_grace_s}.get(
            self._work.stop or Stop.CANCEL, self._host.settings.cancel_term_s
        )
        signal_group(process.pid, signal.SIGTERM)
        hurried = asyncio.ensure_future(self._host.hurried.wait())
        waited: set[asyncio.Future[Any]] = {driving, hurried}
        await asyncio.wait(waited, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not driving.done():
            log.warning("forge is killed", extra={"job": str(self._work.id), "grace_s": grace_s})
            signal_group(process.pid, signal.SIGKILL)
            driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)

    async def _finish(self) -> Finish:
        claim = self._work.claim
        stored = await self._host.insist(self._upload)
        failpoints.hit("finish.after_upload")

        def write(session: Session) -> None:
            for new in stored:
                artifacts.add(session, new, tenant_id=claim.tenant_id, job_id=claim.job_id, attempt=claim.attempt)

        return self._work.succeeded(write)

    def _upload(self) -> list[NewArtifact]:
        return [
            NewArtifact(
                name=told.name,
                media_type=told.media_type,
                blob=self._host.store.put_file(self._work.claim.tenant_id, self._below(told.path)),
                position=position,
            )
            for position, told in enumerate(self._artifacts)
        ]

    def _below(self, relative: str) -> Path:
        """A path that the forge named. Raises ValueError when it leaves `out`."""
        path = (self._out / relative).resolve()
        if not path.is_relative_to(self._out.resolve()):
            raise ValueError(relative)
        return path

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


def _oom_kills() -> int:
    """Processes of this container that the kernel has killed for memory; 0 where it does not say."""
    with suppress(OSError, ValueError):
        for line in OOM_COUNTER.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def _death(status: int, *, oom: bool) -> JobError:
    """Why a forge ended without a word."""
    if oom:
        return JobError(code="out_of_memory", title="The host ran out of memory", retryable=True)
    if status == -signal.SIGKILL:
        return JobError(code="forge_killed", title="The process was killed from outside", retryable=True)
    if status == EXIT_STOPPED:
        return JobError(code="forge_stopped", title="The process was told to stop from outside", retryable=True)
    return JobError(code="forge_crashed", title="The process died", detail=f"exit status {status}", retryable=True)
