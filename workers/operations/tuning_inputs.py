"""What a tuning or a merge works on, laid down on this host's disk."""

from dataclasses import dataclass
from pathlib import Path

from services.catalog import files as model_files
from services.tuning import orders
from services.tuning.orders import Material
from shared.manifest import Manifest
from workers.runtime import forge_files
from workers.runtime.forge_files import Tell
from workers.runtime.host import Host
from workers.runtime.work import Work


@dataclass(frozen=True)
class Laid:
    """Where everything lies."""

    model: Path
    data: Path
    adapter: Path | None = None


async def read(work: Work, host: Host) -> Material:
    """What the job's rows say."""
    return await host.transactions.insist(lambda session, _: orders.read(session, work.claim))


async def lay(host: Host, material: Material, inputs: Path) -> Laid:
    """Fetch the model, its adapter and the data, unless the job is halted before that is done.

    Raises:
        BlobMissing, BlobCorrupt: the store has lost something.
        OSError: this host's disk is full.
    """
    return await forge_files.carry(host, lambda tell: _lay(host, material, inputs, tell))


def _lay(host: Host, material: Material, inputs: Path, tell: Tell) -> Laid:
    def materialised(manifest: Manifest) -> Path:
        tenant_id, folder = material.base.tenant_id, host.folders.models
        return model_files.materialise(host.store, tenant_id, manifest, folder, tell=tell)

    data = inputs / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    orders.lay_library(material, data)
    for name, blob in orders.wanted(material).items():
        host.store.fetch(material.tenant_id, blob, data / name, tell=tell)
    adapter = material.base.adapter
    return Laid(
        model=materialised(material.base.manifest),
        data=data,
        adapter=materialised(adapter.manifest) if adapter else None,
    )
