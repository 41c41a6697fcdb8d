"""The `calibration` kind: samples, statistics of every layer, what each scheme would cost it, and a recommendation."""

from pathlib import Path
from typing import Any

import orjson
from sqlalchemy.orm import Session

from services.compression import finishing, orders, repository
from services.compression.orders import Material
from services.compression.reports import CALIBRATION_REPORT, MEDIA_TYPE, calibration_report
from shared.contracts.compression import CalibrationSpec, LayerSensitivity
from shared.contracts.forge_orders import SENSITIVITY_FILE, CalibrationResult
from shared.db.models import Calibration
from workers.operations import compression_results as results
from workers.operations.compression_inputs import failures, lay, read
from workers.operations.compression_results import Output
from workers.runtime.forge import Made, run_forge
from workers.runtime.host import Host
from workers.runtime.work import Finish, Work

FOLDER = "calibration"  #: below the forge's `out`, and the artifact's name


async def run(work: Work, host: Host) -> Finish:
    """Calibrate, unless the tenant has a calibration of the same model, data and wishes: the job ends with that one.

    Raises:
        JobFailed: the forge said why, or died; the store has lost something; the disk is full.
        Fenced: another attempt owns the job.
    """
    async with failures():
        material = await read(work, host)
        key = await host.blocking(lambda: orders.calibration_key(material))
        found = await host.transactions.insist(
            lambda session, _: repository.calibration_by_key(session, work.claim.tenant_id, key)
        )
        if found is not None:
            return work.succeeded(lambda session: finishing.use_calibration(session, work.claim, found))
        calibration = _Calibration(work, host, material, key=key)
        return await run_forge(
            work, host, module="workers.forge.calibrate", prepare=calibration.prepare, conclude=calibration.conclude
        )


class _Calibration:
    def __init__(self, work: Work, host: Host, material: Material, *, key: str) -> None:
        assert isinstance(material.spec, CalibrationSpec)
        self._work = work
        self._host = host
        self._material = material
        self._spec = material.spec
        self._key = key

    async def prepare(self, inputs: Path) -> dict[str, Any]:
        laid = await lay(self._host, self._material, inputs)
        order = orders.calibrate_order(self._material, model=laid.model, data=laid.data)
        return order.model_dump(mode="json")

    async def conclude(self, made: Made) -> Finish:
        result = CalibrationResult.model_validate(made.result)
        charts = results.charts(made, result.charts)
        report = Output(CALIBRATION_REPORT, MEDIA_TYPE, self._report(made, result, charts))
        folder = Output(FOLDER, "application/json", made.path(FOLDER))
        stored = await results.store(self._work, self._host, [folder, report, *results.drawn(charts)])
        claim = self._work.claim

        def write(session: Session) -> None:
            rows = results.keep(session, claim, stored)
            self._keep(session, result, rows)

        return self._work.succeeded(write)

    def _keep(self, session: Session, result: CalibrationResult, rows: dict[str, Any]) -> Calibration:
        return finishing.keep_calibration(
            session,
            self._work.claim,
            material=self._material,
            key=self._key,
            result=result,
            artifact=rows[FOLDER],
            report=rows[CALIBRATION_REPORT],
        )

    def _report(self, made: Made, result: CalibrationResult, charts: dict[str, bytes]) -> bytes:
        table = orjson.loads(made.path(f"{FOLDER}/{SENSITIVITY_FILE}").read_bytes())
        sensitivity = [LayerSensitivity.model_validate(row) for row in table]
        return calibration_report(
            result.model_copy(update={"sensitivity": sensitivity}),
            model=self._spec.model,
            spec=self._spec,
            charts=charts,
            data=orders.origins(self._material),
        )
