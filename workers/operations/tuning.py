"""The `tuning` kind: a model learns from examples, survives whatever happens on the way, and is registered.

What is stored is stored in this order: checkpoints as they come, the result's files, the results, and in one
transaction with the end of the job their rows and the version. A job that ends before that has registered nothing
but the versions of its checkpoints, where they were asked for.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from services.catalog import files as model_files
from services.catalog import service as catalog
from services.catalog.register import Staged, stage
from services.catalog.tree import FolderTree
from services.placement import ahead
from services.tuning import finish_repository, finishing, orders
from services.tuning.card import tuned_card
from services.tuning.finishing import Tuned
from services.tuning.orders import Material
from services.tuning.reports import MEDIA_TYPE, TUNING_REPORT, metrics_csv, tuning_report
from shared.contracts.tuning import Setting
from shared.contracts.tuning_orders import DATA_REPORT, MODEL_FOLDER, TuneResult
from shared.errors import DatabaseUnavailable, ModelyardError
from shared.manifest import Manifest
from workers.operations import compression_results as results
from workers.operations.compression_inputs import failures
from workers.operations.compression_results import Output
from workers.operations.tuning_checkpoints import place, policy
from workers.operations.tuning_inputs import lay, read
from workers.operations.tuning_relief import OUT_OF_MEMORY, relieve
from workers.runtime import forge_files
from workers.runtime.forge import Made, run_forge
from workers.runtime.host import Host
from workers.runtime.work import Finish, JobFailed, Work

FORGE = "workers.forge.tune"
MODEL = "model"  #: the artifact that lists the version's files
METRICS, CARD, README = "metrics.csv", "model-card.md", "README.md"


async def run(work: Work, host: Host) -> Finish:
    """Train, and go on with less where memory runs out; then register and place what came of it.

    Raises:
        JobFailed: the forge said why, or died; or something is lost, or the disk full; or nothing makes the run fit.
        Fenced: another attempt owns the job.
    """
    async with failures():
        return await _Tuning(work, host, await read(work, host)).run()


class _Tuning:
    def __init__(self, work: Work, host: Host, material: Material) -> None:
        self._work = work
        self._host = host
        self._material = material
        self._setting: Setting | None = None

    async def run(self) -> Finish:
        while True:
            try:
                return await run_forge(
                    self._work,
                    self._host,
                    module=FORGE,
                    prepare=self.prepare,
                    conclude=self.conclude,
                    policy=policy(self._host, self._material),
                    heard=self._heard,
                )
            except JobFailed as failure:
                if failure.error.code != OUT_OF_MEMORY:
                    raise
                self._material, finish = await relieve(
                    self._work, self._host, self._material, setting=self._setting, failure=failure
                )
                self._setting = None
            if finish is not None:
                return finish

    async def prepare(self, inputs: Path) -> dict[str, Any]:
        laid = await lay(self._host, self._material, inputs)
        return orders.tune_order(self._material, model=laid.model, data=laid.data).model_dump(mode="json")

    async def conclude(self, made: Made) -> Finish:
        told, claim = TuneResult.model_validate(made.result), self._work.claim
        await self._foresee()
        spec, name = self._material.tuning, self._material.name
        await self._host.transactions.insist(
            lambda session, _: catalog.check_names(session, claim.tenant_id, name, spec.alias)
        )
        card = await self._host.blocking(lambda: tuned_card(self._material, told.figures).encode())
        staged = await self._stage(made, told, card)
        try:
            outputs = await self._outputs(made, told, staged, card)
            stored = await results.store(self._work, self._host, outputs)
            await forge_files.carry(self._host, lambda _: place(self._host, made.path(MODEL_FOLDER), staged))
        except BaseException:
            await self._forget(staged)
            raise
        csv = next(each.blob for each in stored if each.name == METRICS)

        def write(session: Session) -> None:
            rows = results.keep(session, claim, stored)
            tuned = Tuned(told.figures, artifact=rows[MODEL], metrics=csv)
            finishing.keep(session, claim, material=self._material, staged=staged, tuned=tuned)

        return self._work.succeeded(write, undo=lambda: self._forget(staged))

    def _heard(self, setting: dict[str, Any]) -> None:
        self._setting = Setting.model_validate(setting)

    async def _foresee(self) -> None:
        """Have an engine of the base started while the result is stored: the adapter will answer beside it."""
        if not (self._material.adapts and self._material.tuning.serve):
            return
        tenant_id, base_id = self._material.tenant_id, self._material.base.id
        with suppress(DatabaseUnavailable, ModelyardError):  # it is a wish
            await self._host.transactions.run(
                lambda session: ahead.foresee(session, tenant_id=tenant_id, model_id=base_id)
            )

    async def _stage(self, made: Made, told: TuneResult, card: bytes) -> Staged:
        """The result as blobs, without a row."""
        store, tenant_id, folder = self._host.store, self._work.claim.tenant_id, made.path(MODEL_FOLDER)

        def upload(tell: forge_files.Tell) -> Staged:
            (folder / README).write_bytes(card)
            wish = finishing.wish(self._material, finishing.lineage(self._material, figures=told.figures))
            return stage(store, tenant_id, FolderTree(folder, store, tenant_id), wish=wish, tell=tell)

        return await forge_files.carry(self._host, upload)

    async def _outputs(self, made: Made, told: TuneResult, staged: Staged, card: bytes) -> list[Output]:
        """The report first."""
        claim = self._work.claim
        csv = await self._host.transactions.insist(
            lambda session, _: metrics_csv(finish_repository.metrics(session, claim.tenant_id, claim.job_id))
        )
        charts = results.charts(made, told.charts)
        report = await self._host.blocking(lambda: self._report(told, charts))
        return [
            Output(TUNING_REPORT, MEDIA_TYPE, report),
            Output(MODEL, "application/json", Manifest.of_json(staged.values["manifest"])),
            Output(CARD, "text/markdown", card),
            Output(DATA_REPORT, "application/json", told.figures.data.model_dump_json(indent=2).encode()),
            Output(METRICS, "text/csv", csv),
            *results.drawn(charts),
        ]

    def _report(self, told: TuneResult, charts: dict[str, bytes]) -> bytes:
        """Describing library text reads it all: not on the loop."""
        return tuning_report(
            told.figures,
            name=self._material.name,
            spec=self._material.tuning,
            charts=charts,
            data=orders.origins(self._material),
            validation=orders.validation_origins(self._material),
            job_id=str(self._work.id),
        )

    async def _forget(self, staged: Staged) -> None:
        """Nothing of a version that is not registered stays on this host."""
        await self._host.engines.drop(staged.digest)
        await self._host.blocking(lambda: model_files.remove(self._host.folders.models / staged.digest))
