"""The `merge` kind: an adapter is added to its base, and the whole checkpoint registered."""

from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from services.catalog import files as model_files
from services.catalog import service as catalog
from services.catalog.register import Staged, stage
from services.catalog.tree import FolderTree
from services.tuning import finishing, orders
from services.tuning.card import merged_card
from services.tuning.orders import Material
from shared.contracts.tuning_orders import MODEL_FOLDER, MergeResult
from shared.manifest import Manifest
from workers.operations import compression_results as results
from workers.operations.compression_inputs import failures
from workers.operations.compression_results import Output
from workers.operations.tuning import CARD, MODEL, README
from workers.operations.tuning_checkpoints import place
from workers.operations.tuning_inputs import lay, read
from workers.runtime import forge_files
from workers.runtime.forge import Made, run_forge
from workers.runtime.host import Host
from workers.runtime.work import Finish, Work

FORGE = "workers.forge.merge"


async def run(work: Work, host: Host) -> Finish:
    """Merge, register, place.

    Raises:
        JobFailed: the forge said why, or died; or something is lost, or the disk full.
        Fenced: another attempt owns the job.
    """
    async with failures():
        merge = _Merge(work, host, await read(work, host))
        return await run_forge(work, host, module=FORGE, prepare=merge.prepare, conclude=merge.conclude)


class _Merge:
    def __init__(self, work: Work, host: Host, material: Material) -> None:
        self._work = work
        self._host = host
        self._material = material

    async def prepare(self, inputs: Path) -> dict[str, Any]:
        laid = await lay(self._host, self._material, inputs)
        assert laid.adapter is not None
        return orders.merge_order(self._material, model=laid.model, adapter=laid.adapter).model_dump(mode="json")

    async def conclude(self, made: Made) -> Finish:
        told, claim = MergeResult.model_validate(made.result), self._work.claim
        name, alias = self._material.name, self._material.spec.alias
        await self._host.transactions.insist(
            lambda session, _: catalog.check_names(session, claim.tenant_id, name, alias)
        )
        card = merged_card(self._material, told).encode()
        staged = await self._stage(made, card)
        try:
            manifest = Manifest.of_json(staged.values["manifest"])
            outputs = [Output(MODEL, "application/json", manifest), Output(CARD, "text/markdown", card)]
            stored = await results.store(self._work, self._host, outputs)
            await forge_files.carry(self._host, lambda _: place(self._host, made.path(MODEL_FOLDER), staged))
        except BaseException:
            await self._forget(staged)
            raise

        def write(session: Session) -> None:
            rows = results.keep(session, claim, stored)
            finishing.keep_merged(session, claim, staged=staged, artifact=rows[MODEL])

        return self._work.succeeded(write, undo=lambda: self._forget(staged))

    async def _stage(self, made: Made, card: bytes) -> Staged:
        """The checkpoint as blobs, without a row."""
        store, tenant_id, folder = self._host.store, self._work.claim.tenant_id, made.path(MODEL_FOLDER)
        wish = finishing.wish(self._material, finishing.lineage(self._material))

        def upload(tell: forge_files.Tell) -> Staged:
            (folder / README).write_bytes(card)
            return stage(store, tenant_id, FolderTree(folder, store, tenant_id), wish=wish, tell=tell)

        return await forge_files.carry(self._host, upload)

    async def _forget(self, staged: Staged) -> None:
        """Nothing of a version that is not registered stays on this host."""
        await self._host.blocking(lambda: model_files.remove(self._host.folders.models / staged.digest))
