"""One engine process: started from a file, watched, heard through its socket, ended as a group."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID

import orjson

from shared.clock import monotonic
from shared.contracts.engine import EngineConfig, EngineState, EngineStats
from shared.contracts.jobs import JobError
from shared.contracts.serving import Serving
from shared.embedded.layout import write_private
from shared.engine_client import EngineClient, EngineGone
from shared.telemetry import logger
from workers.runtime.folders import EngineFiles
from workers.runtime.launch.order import Command
from workers.runtime.post_mortem import EngineFailed, cause, last_words
from workers.runtime.processes import Identity, Note, exited, signal_group
from workers.runtime.slots import SlotName
from workers.runtime.spawning import Spare, end_of, spawn

HEALTH_POLL_S = 0.05
STOP_S = 10.0  # from SIGTERM to SIGKILL: the engine drains for `drain_s`, 5 s
SHORT_S = 2.0  # a small question to a live engine

log = logger(__name__)


class EngineProcess:
    """A running engine, a child of ours or adopted: `client` asks it, `control` watches it."""

    def __init__(self, files: EngineFiles, config: EngineConfig, note: Note) -> None:
        self.id = UUID(config.engine_id)
        self.files = files
        self.config = config
        self.kind = note.kind
        self.serving = note.serving
        self.client = EngineClient(config.uds, token=config.token)
        control = config.uds if note.control is None else note.control
        self.control = self.client if control == config.uds else EngineClient(control, token=config.token)
        self.started = monotonic()
        self._identity = note.process
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        return self._identity.pid

    @property
    def address(self) -> str:
        """Where gateways find it."""
        return f"http://{self.config.listen}" if self.config.listen else f"unix:{self.config.uds}"

    @classmethod
    def start(
        cls,
        files: EngineFiles,
        config: EngineConfig,
        command: Command,
        *,
        kind: str,
        serving: Serving,
        slots: Sequence[SlotName],
        spare: Spare | None = None,
    ) -> "EngineProcess":
        """Start an engine from this thread, whose end would kill it (PDEATHSIG); `spare` is one that waits for this."""
        files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, text in command.files.items():
            write_private(path, text)
        log_start = end_of(files.log)
        child = (
            spare.become(files.config)
            if spare
            else spawn(command.argv, log=files.log, slots=slots, fds=config.lock_fds)
        )
        note = Note(
            process=Identity.of(child.pid),
            worker=Identity.of(os.getpid()),
            slots=tuple(map(str, slots)),
            kind=kind,
            control=command.control,
            serving=serving,
        )
        note.write(files.folder)
        process = cls(files, config, note)
        process._child, process._log_start = child, log_start
        return process

    @classmethod
    async def adopt(cls, files: EngineFiles) -> "tuple[EngineProcess, EngineStats] | None":
        """The engine of a worker that left on purpose; None when it is dead, silent, or was not let go."""
        note = Note.read(files.folder)
        if note is None or not note.process.alive():
            return None
        with suppress(OSError, ValueError, TimeoutError):
            config = EngineConfig.model_validate_json(files.config.read_bytes())
            process = cls(files, config, note)
            stats = await process.stats()
            if stats.detached and stats.state is EngineState.READY:
                await process.hold()
                note.model_copy(update={"worker": Identity.of(os.getpid())}).write(files.folder)
                return process, stats
        return None

    async def stats(self) -> EngineStats:
        """The engine's own figures. Raises EngineGone, TimeoutError, or ValueError when they are no figures."""
        async with asyncio.timeout(SHORT_S):
            return EngineStats.model_validate(orjson.loads((await self.control.get("/stats")).body))

    async def hold(self) -> None:
        """Open the lifeline. Raises EngineGone or TimeoutError."""
        async with asyncio.timeout(SHORT_S):
            await self.control.lifeline()

    async def ready(self, *, timeout_s: float) -> EngineStats:
        """Wait until the engine admits requests, and hold its lifeline; its first figures.

        Raises:
            EngineFailed: it died, or took too long.
        """
        gone = asyncio.ensure_future(exited(self.pid))
        answering = asyncio.ensure_future(self._answering())
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait({gone, answering}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise EngineFailed(self.post_mortem())
            return answering.result()
        except TimeoutError as error:
            told = JobError(
                code="engine_start_timeout",
                title="The engine did not become ready in time",
                detail=f"{timeout_s:g} s",
                retryable=True,
            )
            raise EngineFailed(told) from error
        finally:
            for task in (gone, answering):
                task.cancel()
            await asyncio.gather(gone, answering, return_exceptions=True)

    async def _answering(self) -> EngineStats:
        held = False
        while True:
            with suppress(EngineGone, TimeoutError, ValueError):
                if not held:
                    await self.hold()
                    held = True
                if (await self.control.get("/health")).status == 200:
                    return await self.stats()
            await asyncio.sleep(HEALTH_POLL_S)

    async def watch(
        self, look: Callable[[], Awaitable[None]], *, every_s: Callable[[], float], silent_s: float
    ) -> None:
        """`look` at it until the process has ended, each time after `every_s()`; one silent for `silent_s` is killed.

        `look` raises EngineGone, TimeoutError or ValueError when it gets no figures.
        """
        gone = asyncio.ensure_future(exited(self.pid))
        answered_at = monotonic()
        try:
            while not (await asyncio.wait({gone}, timeout=min(every_s(), silent_s)))[0]:
                try:
                    await look()
                    answered_at = monotonic()
                except (EngineGone, TimeoutError, ValueError):
                    if monotonic() - answered_at > silent_s:
                        log.error("engine hangs", extra={"engine": str(self.id), "pid": self.pid})  # noqa: TRY400
                        signal_group(self.pid, signal.SIGKILL)
        finally:
            gone.cancel()

    def post_mortem(self) -> JobError:
        """Why it died, as far as its log and its exit status tell."""
        status = self._child.wait() if self._child else None
        return cause(last_words(self.files.log, after=self._log_start), status=status)

    async def detach(self, *, grace_s: float) -> bool:
        """Let the engine outlive this worker; False when it does not answer."""
        try:
            async with asyncio.timeout(SHORT_S):
                return (await self.control.post("/detach", {"grace_s": grace_s})).status == 200
        except (EngineGone, TimeoutError):
            return False
        finally:
            self._close()

    async def stop(self, *, grace_s: float = STOP_S) -> None:
        """End the process group: SIGTERM, and SIGKILL after `grace_s`. Returns when the process is gone."""
        signal_group(self.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await exited(self.pid)
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL the group and wait until it is gone; forget its files."""
        signal_group(self.pid, signal.SIGKILL)
        await exited(self.pid)
        if self._child is not None:
            self._child.wait()
        self._close()
        self.config.uds.unlink(missing_ok=True)
        shutil.rmtree(self.files.folder, ignore_errors=True)

    def _close(self) -> None:
        self.client.close()
        self.control.close()
