"""Where a worker keeps what it needs on its host's disk (design §2): all of it private to the owner."""

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from shared.embedded.layout import PRIVATE_DIR, layout
from shared.settings import Settings


@dataclass(frozen=True)
class EngineFiles:
    """Where an engine's files are."""

    folder: Path
    uds: Path
    log: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.json"


@dataclass(frozen=True)
class Folders:
    """`data` is the yard's folder or a worker's scratch; `run` is short, because a socket's path has 108 bytes."""

    data: Path
    run: Path

    @classmethod
    def of(cls, settings: Settings) -> "Folders":
        """The folders that the settings name, made where they are missing."""
        place = layout(settings.data_dir)
        folders = cls(data=place.data, run=settings.run_dir or place.run)
        for path in (folders.run, folders.logs, folders.slots, folders.models, folders.jobs, folders.engines):
            path.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
        return folders

    @property
    def worker(self) -> Path:
        return self.data / "worker"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def slots(self) -> Path:
        return self.worker / "slots"

    @property
    def models(self) -> Path:
        return self.worker / "models"

    @property
    def jobs(self) -> Path:
        return self.worker / "jobs"

    @property
    def engines(self) -> Path:
        return self.worker / "engines"

    def attempt(self, job_id: UUID, attempt: int) -> Path:
        """The folder of one attempt of a forge job: spec.json, in/, out/."""
        return self.jobs / str(job_id) / str(attempt)

    def engine(self, engine_id: UUID) -> Path:
        """The folder of one engine: config.json and process.json."""
        return self.engines / str(engine_id)

    def engine_files(self, engine_id: str, log: Path) -> EngineFiles:
        """Where an engine's files are; it writes its log to `log`."""
        found = UUID(engine_id)
        return EngineFiles(self.engine(found), self.socket(found), log)

    def socket(self, engine_id: UUID) -> Path:
        """The Unix socket of an engine; 32 hex digits would not fit below every folder."""
        return self.run / f"engine-{engine_id.hex[-12:]}.sock"
