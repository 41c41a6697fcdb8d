"""The `evaluation` kind: a registered model judged, alone or beside another one."""

from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from services.compression import finishing, orders
from services.compression.orders import Material
from services.compression.reports import EVALUATION_REPORT
from shared.contracts.evaluation import EvaluationFigures, EvaluationSpec
from shared.contracts.forge_orders import EvaluationResult
from shared.ids import new_id
from workers.operations import compression_results as results
from workers.operations.compression_inputs import failures, lay, read
from workers.operations.compression_judging import Judged
from workers.operations.compression_speed import registered
from workers.runtime.forge import Made, run_forge
from workers.runtime.host import Host
from workers.runtime.work import Finish, JobFailed, Work


async def run(work: Work, host: Host) -> Finish:
    """Evaluate. What was found is kept whether or not the gate is passed.

    Raises:
        JobFailed: the gate is not passed; or the forge said why, or died; or something is lost, or the disk full.
        Fenced: another attempt owns the job.
    """
    async with failures():
        evaluation = _Evaluation(work, host, await read(work, host))
        return await run_forge(
            work, host, module="workers.forge.evaluate", prepare=evaluation.prepare, conclude=evaluation.conclude
        )


class _Evaluation:
    def __init__(self, work: Work, host: Host, material: Material) -> None:
        assert isinstance(material.spec, EvaluationSpec)
        self._work = work
        self._host = host
        self._material = material
        self._spec = material.spec

    async def prepare(self, inputs: Path) -> dict[str, Any]:
        laid = await lay(self._host, self._material, inputs)
        order = orders.evaluate_order(self._material, model=laid.model, baseline=laid.baseline, data=laid.data)
        return order.model_dump(mode="json")

    async def conclude(self, made: Made) -> Finish:
        result = EvaluationResult.model_validate(made.result)
        figures = await self._timed(result.figures) if self._spec.speed else result.figures
        verdict = results.verdict_of(self._spec.gate, figures)
        judged = Judged(self._material, self._spec.tasks, figures, self._spec.gate, verdict)
        stored = await results.store(self._work, self._host, judged.outputs(made, result))
        claim, baseline = self._work.claim, self._material.baseline

        def write(session: Session) -> None:
            report = results.keep(session, claim, stored)[EVALUATION_REPORT]
            finishing.keep_evaluation(
                session,
                claim,
                id=new_id(),
                figures=figures,
                model_id=self._material.model.id,
                baseline_id=baseline.id if baseline else None,
                gate=self._spec.gate,
                verdict=verdict,
                report=report,
            )

        if verdict is not None and not verdict.passed:
            raise JobFailed(results.not_met(verdict), permanent=True, write=write)
        return self._work.succeeded(write)

    async def _timed(self, figures: EvaluationFigures) -> EvaluationFigures:
        """The figures with those of engines; the model's comes last, so its engine is the one that stays."""
        update: dict[str, Any] = {}
        if self._material.baseline is not None and figures.baseline is not None:
            speed = await registered(self._work, self._host, self._material.baseline)
            update["baseline"] = speed.into(figures.baseline)
        speed = await registered(self._work, self._host, self._material.model)
        return figures.model_copy(update={**update, "candidate": speed.into(figures.candidate)})
