"""One engine process: started from a file, watched, heard through its socket, ended as a group."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import orjson

from shared.contracts.engine import EngineConfig, EngineState, EngineStats
from shared.contracts.jobs import JobError
from shared.embedded.environment import MARK, PASSED
from shared.embedded.layout import open_log, write_private
from shared.settings import passed_on
from shared.telemetry import logger
from workers.runtime.client import EngineClient, EngineGone
from workers.runtime.processes import Identity, Note, exited, signal_group
from workers.runtime.slots import VISIBLE, SlotName, visible_devices

HEALTH_POLL_S = 0.05
PROBE_S = 5.0  # between two looks at a ready engine
SILENT_PROBES = 6  # unanswered ones in a row, after which it is taken for hung; a busy CPU answers late
TAIL_BYTES = 16 * 1024
STOP_S = 10.0  # from SIGTERM to SIGKILL: the engine drains for `drain_s`, 5 s
SHORT_S = 2.0  # a small question to a live engine

#: what the tail of a log gives away → code, title, whether another try may help; the first that is found counts
CAUSES: Final = (
    ("OutOfMemoryError", "engine_out_of_memory", "The model and its KV cache do not fit the device", True),
    ("MemoryError", "engine_out_of_memory", "The host ran out of memory while the engine started", True),
    ("CUDA", "engine_device_failed", "The engine lost its device", True),
    ("load_failed", "engine_load_failed", "The engine could not load the model", False),
)

log = logger(__name__)


class EngineFailed(Exception):
    """An engine did not start, or died."""

    def __init__(self, error: JobError) -> None:
        self.error = error
        super().__init__(error.title)


@dataclass(frozen=True)
class EngineFiles:
    """Where an engine's files are."""

    folder: Path
    uds: Path
    log: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.json"


class EngineProcess:
    """A running engine, a child of ours or adopted."""

    def __init__(self, files: EngineFiles, config: EngineConfig, identity: Identity) -> None:
        self.id = UUID(config.engine_id)
        self.files = files
        self.config = config
        self.client = EngineClient(config.uds, token=config.token)
        self._identity = identity
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        return self._identity.pid

    @classmethod
    def start(cls, files: EngineFiles, config: EngineConfig, *, slots: Sequence[SlotName]) -> "EngineProcess":
        """Start an engine from this thread, whose end would kill it (PDEATHSIG)."""
        files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(files.config, config.model_dump_json())
        env = {**passed_on((*PASSED, MARK)), "PYTHONUNBUFFERED": "1"}
        written = open_log(files.log)
        try:
            log_start = os.fstat(written).st_size
            child = subprocess.Popen(
                [sys.executable, "-m", "workers.engine", str(files.config)],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                start_new_session=True,
                env={**env, **visible_devices(slots, inherited=env.get(VISIBLE))},
                pass_fds=config.lock_fds,
            )
        finally:
            os.close(written)
        identity = Identity.of(child.pid)
        Note(process=identity, worker=Identity.of(os.getpid()), slots=tuple(map(str, slots))).write(files.folder)
        process = cls(files, config, identity)
        process._child, process._log_start = child, log_start
        return process

    @classmethod
    async def adopt(cls, files: EngineFiles) -> "EngineProcess | None":
        """The engine of a worker that left on purpose; None when it is dead, silent, or was not let go."""
        note = Note.read(files.folder)
        if note is None or not note.process.alive():
            return None
        with suppress(OSError, ValueError, TimeoutError):
            config = EngineConfig.model_validate_json(files.config.read_bytes())
            process = cls(files, config, note.process)
            stats = await process.stats()
            if stats.detached and stats.state is EngineState.READY:
                await process.hold()
                note.model_copy(update={"worker": Identity.of(os.getpid())}).write(files.folder)
                return process
        return None

    async def stats(self) -> EngineStats:
        """The engine's own figures. Raises EngineGone or TimeoutError."""
        async with asyncio.timeout(SHORT_S):
            return EngineStats.model_validate(orjson.loads((await self.client.get("/stats")).body))

    async def hold(self) -> None:
        """Open the lifeline. Raises EngineGone or TimeoutError."""
        async with asyncio.timeout(SHORT_S):
            await self.client.lifeline()

    async def ready(self, *, timeout_s: float) -> None:
        """Wait until the engine admits requests, and hold its lifeline.

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
            answering.result()
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

    async def _answering(self) -> None:
        held = False
        while True:
            with suppress(EngineGone, TimeoutError):
                if not held:
                    await self.hold()
                    held = True
                if (await self.client.get("/health")).status == 200:
                    return
            await asyncio.sleep(HEALTH_POLL_S)

    async def ended(self) -> None:
        """Wait for the end of the process; one that hangs is killed."""
        gone = asyncio.ensure_future(exited(self.pid))
        silent = 0
        try:
            while not (await asyncio.wait({gone}, timeout=PROBE_S))[0]:
                silent = 0 if await self._answers() else silent + 1
                if silent >= SILENT_PROBES:
                    log.error("engine hangs", extra={"engine": str(self.id), "pid": self.pid})
                    signal_group(self.pid, signal.SIGKILL)
        finally:
            gone.cancel()

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(SHORT_S):
                await self.client.get("/health")
        except (EngineGone, TimeoutError):
            return False
        return True

    def post_mortem(self) -> JobError:
        """Why it died, as far as its log and its exit status tell."""
        status = self._child.wait() if self._child else None
        text = self._last_words()
        for sign, code, title, retryable in CAUSES:
            if sign in text:
                return JobError(code=code, title=title, detail=f"exit status {status}", retryable=retryable)
        if status == -signal.SIGKILL:
            title = "The engine was killed, perhaps because the host ran out of memory"
            return JobError(code="engine_killed", title=title, retryable=True)
        return JobError(code="engine_failed", title="The engine died", detail=f"exit status {status}", retryable=True)

    def _last_words(self) -> str:
        try:
            with self.files.log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, end - TAIL_BYTES))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    async def detach(self, *, grace_s: float) -> bool:
        """Let the engine outlive this worker; False when it does not answer."""
        try:
            async with asyncio.timeout(SHORT_S):
                return (await self.client.post("/detach", {"grace_s": grace_s})).status == 200
        except (EngineGone, TimeoutError):
            return False
        finally:
            self.client.close()

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
        self.client.close()
        self.config.uds.unlink(missing_ok=True)
        for name in ("config.json", "process.json"):
            (self.files.folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.files.folder.rmdir()
