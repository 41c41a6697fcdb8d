"""The `quantization` kind: a smaller version of a model, judged beside the original, and registered if it passes.

What is stored is stored in this order: the checkpoint's files, the results, and in one transaction with the end of the
job their rows, the version and its evaluation. A job that ends before that has registered nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from services.catalog import files as model_files
from services.catalog import service as catalog
from services.catalog.register import Staged, stage
from services.catalog.tree import FolderTree
from services.compression import finishing, orders
from services.compression.about import Quantized
from services.compression.card import model_card
from services.compression.orders import CHECKPOINT, Material
from services.compression.quantization import check_names
from services.compression.reports import EVALUATION_REPORT
from shared.contracts.compression import QuantizationSpec
from shared.contracts.evaluation import EvaluationFigures, Verdict
from shared.contracts.forge_orders import QuantizationResult, QuantizeOrder
from shared.ids import new_id
from shared.manifest import Manifest
from shared.telemetry import logger
from workers.operations import compression_results as results
from workers.operations.compression_candidate import time_candidate
from workers.operations.compression_inputs import failures, lay, read
from workers.operations.compression_judging import Judged
from workers.operations.compression_results import Output
from workers.operations.compression_speed import registered
from workers.runtime import forge_files
from workers.runtime.forge import Made, run_forge
from workers.runtime.host import Host
from workers.runtime.work import Finish, JobFailed, Work

README, CARD = "README.md", "model-card.md"  # the same text: in the checkpoint, and as a result of the job
NOT_TIMED: Final = "It did not pass the gate: no engine was started for it."


log = logger(__name__)


async def run(work: Work, host: Host) -> Finish:
    """Quantize, judge, register. Of what does not pass the gate the evaluation is kept, and nothing else.

    Raises:
        JobFailed: the gate is not passed; or the forge said why, or died; or something is lost, or the disk full.
        Fenced: another attempt owns the job.
    """
    async with failures():
        quantization = _Quantization(work, host, await read(work, host))
        return await run_forge(
            work, host, module="workers.forge.quantize", prepare=quantization.prepare, conclude=quantization.conclude
        )


@dataclass(frozen=True)
class _Result:
    """What the forge has made, as it is judged."""

    made: Made
    told: QuantizationResult
    figures: EvaluationFigures | None
    verdict: Verdict | None

    @property
    def checkpoint(self) -> Path:
        return self.made.path(CHECKPOINT)


class _Quantization:
    def __init__(self, work: Work, host: Host, material: Material) -> None:
        assert isinstance(material.spec, QuantizationSpec)
        self._work = work
        self._host = host
        self._material = material
        self._spec = material.spec
        self._evaluation_id = new_id()
        self._order: QuantizeOrder | None = None

    async def prepare(self, inputs: Path) -> dict[str, Any]:
        laid = await lay(self._host, self._material, inputs)
        out = self._host.folders.attempt(self._work.id, self._work.claim.attempt) / "out"
        self._order = orders.quantize_order(
            self._material, model=laid.model, data=laid.data, out=out, calibration=laid.calibration
        )
        return self._order.model_dump(mode="json")

    async def conclude(self, made: Made) -> Finish:
        told = QuantizationResult.model_validate(made.result)
        figures = told.evaluation.figures if told.evaluation else None
        result = _Result(made, told, figures, results.verdict_of(self._spec.gate, figures))
        if result.verdict is not None and not result.verdict.passed:
            raise await self._refused(result, result.verdict)
        return await self._registered(result)

    async def _refused(self, result: _Result, verdict: Verdict) -> JobFailed:
        """The end of a job whose model does not pass."""
        assert result.figures is not None
        candidate = result.figures.candidate.model_copy(update={"not_served": NOT_TIMED})
        figures = result.figures.model_copy(update={"candidate": candidate})
        outputs = await self._host.blocking(lambda: self._judged(result, figures))
        stored = await results.store(self._work, self._host, outputs)

        def write(session: Session) -> None:
            report = results.keep(session, self._work.claim, stored)[EVALUATION_REPORT]
            self._keep(session, figures, verdict, report=report)

        return JobFailed(results.not_met(verdict), permanent=True, write=write)

    async def _registered(self, result: _Result) -> Finish:
        await self._host.transactions.insist(
            lambda session, _: check_names(session, self._work.claim.tenant_id, self._spec)
        )
        card = await self._card(result)
        staged = await self._stage(result, card)
        try:
            figures = await self._timed(result, staged)
            judged = await self._host.blocking(lambda: self._judged(result, figures)) if figures else []
            outputs = [Output(CHECKPOINT, "application/json", _manifest(staged)), Output(CARD, "text/markdown", card)]
            stored = await results.store(self._work, self._host, [*outputs, *judged])
            await forge_files.carry(self._host, lambda _: self._place(result, staged))
        except BaseException:
            await self._forget(staged)
            raise

        def write(session: Session) -> None:
            rows = results.keep(session, self._work.claim, stored)
            checkpoint = rows[CHECKPOINT]
            model = finishing.keep_quantization(session, self._work.claim, staged=staged, artifact=checkpoint)
            if figures is not None:
                report = rows[EVALUATION_REPORT]
                self._keep(session, figures, result.verdict, report=report, artifact=checkpoint, model_id=model.id)

        return self._work.succeeded(write, undo=lambda: self._forget(staged))

    async def _card(self, result: _Result) -> bytes:
        """README.md. It says nothing of engines: they load what it is a part of."""
        spec, model = self._spec, self._material.model
        base = await self._host.transactions.insist(
            lambda session, _: catalog.by_id(session, model.tenant_id, model.id)
        )
        order = self._order
        assert order is not None
        made = Quantized(
            name=spec.name or "",
            base=spec.model,
            base_digest=model.digest,
            base_source=base.source,
            job_id=str(self._work.id),
            scheme=order.scheme,
            method=order.method,
            group_size=order.group_size,
            ignore=order.ignore,
            overrides=order.overrides,
            smoothing_strength=order.smoothing_strength,
            result=result.told,
            calibration_id=spec.calibration,
            data=orders.origins(self._material),
            gate=spec.gate,
            verdict=result.verdict,
        )
        return model_card(made).encode()

    async def _stage(self, result: _Result, card: bytes) -> Staged:
        """The checkpoint as blobs, without a row."""
        judged = None if result.figures is None else self._evaluation_id
        source = finishing.lineage(self._material, result=result.told, evaluation_id=judged)
        wish, tenant_id = finishing.wish(self._material, source), self._work.claim.tenant_id
        store, folder = self._host.store, result.checkpoint

        def upload(tell: forge_files.Tell) -> Staged:
            (folder / README).write_bytes(card)
            return stage(store, tenant_id, FolderTree(folder, store, tenant_id), wish=wish, tell=tell)

        return await forge_files.carry(self._host, upload)

    async def _timed(self, result: _Result, staged: Staged) -> EvaluationFigures | None:
        """The figures with those of engines; the candidate's comes last, so it is the one that stays."""
        figures = result.figures
        if figures is None or self._spec.evaluation is None or not self._spec.evaluation.speed:
            return figures
        update: dict[str, Any] = {}
        if figures.baseline is not None:
            speed = await registered(self._work, self._host, self._material.model)
            update["baseline"] = speed.into(figures.baseline)
        speed = await time_candidate(self._work, self._host, staged, result.checkpoint)
        return figures.model_copy(update={**update, "candidate": speed.into(figures.candidate)})

    def _judged(self, result: _Result, figures: EvaluationFigures) -> list[Output]:
        assert result.told.evaluation is not None
        judged = Judged(self._material, self._material.tasks, figures, self._spec.gate, result.verdict)
        return judged.outputs(result.made, result.told.evaluation)

    def _place(self, result: _Result, staged: Staged) -> None:
        """The files go where engines look for them: nobody has to fetch what was made here."""
        try:
            model_files.adopt(result.checkpoint, _manifest(staged), self._host.folders.models)
        except OSError as error:  # engines fetch it then
            log.warning("checkpoint was not placed", extra={"job": str(self._work.id), "why": str(error)})

    async def _forget(self, staged: Staged) -> None:
        """Nothing of a version that is not registered stays on this host."""
        await self._host.engines.drop(staged.digest)
        await self._host.blocking(lambda: model_files.remove(self._host.folders.models / staged.digest))

    def _keep(self, session: Session, figures: EvaluationFigures, verdict: Verdict | None, **rows: Any) -> None:
        finishing.keep_evaluation(
            session,
            self._work.claim,
            id=self._evaluation_id,
            figures=figures,
            baseline_id=self._material.model.id,
            gate=self._spec.gate,
            verdict=verdict,
            **{"model_id": None, **rows},
        )


def _manifest(staged: Staged) -> Manifest:
    return Manifest.of_json(staged.values["manifest"])
