"""What a calibration, a quantization or an evaluation works on, laid down on this host's disk."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from services.catalog import files as model_files
from services.compression import orders
from services.compression.orders import Material
from services.inference.service import ServedModel
from shared.errors import Fenced, ModelyardError
from workers.runtime import forge_files
from workers.runtime.forge_files import Tell
from workers.runtime.host import Host
from workers.runtime.work import JobFailed, Work


@dataclass(frozen=True)
class Laid:
    """Where everything lies."""

    model: Path
    data: Path
    baseline: Path | None = None
    calibration: Path | None = None


async def read(work: Work, host: Host) -> Material:
    """What the job's rows say."""
    return await host.transactions.insist(lambda session, _: orders.read(session, work.claim))


async def lay(host: Host, material: Material, inputs: Path) -> Laid:
    """Fetch models, data and the calibration that is used, unless the job is halted before that is done.

    Raises:
        BlobMissing, BlobCorrupt: the store has lost something.
        OSError: this host's disk is full.
    """
    return await forge_files.carry(host, lambda tell: _lay(host, material, inputs, tell))


def _lay(host: Host, material: Material, inputs: Path, tell: Tell) -> Laid:
    def model(served: ServedModel) -> Path:
        folder = host.folders.models
        return model_files.materialise(host.store, served.tenant_id, served.manifest, folder, tell=tell)

    data = inputs / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    orders.lay_library(material, data)
    for name, blob in orders.wanted(material).items():
        host.store.fetch(material.tenant_id, blob, data / name, tell=tell)
    used, calibration = material.calibration, None
    if used is not None:
        calibration = inputs / "calibration"
        forge_files.fetch_folder(host.store, material.tenant_id, used.manifest, calibration, tell=tell)
    return Laid(
        model=model(material.model),
        data=data,
        baseline=model(material.baseline) if material.baseline else None,
        calibration=calibration,
    )


@asynccontextmanager
async def failures() -> AsyncIterator[None]:
    """Turn our own errors into the end of an attempt.

    Raises:
        JobFailed: one was raised.
    """
    try:
        yield
    except Fenced:
        raise
    except ModelyardError as error:
        raise JobFailed.of(error) from error
