"""The results of an evaluation: its report, its charts, and a line for every choice and answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.compression import library
from services.compression.about import Origin
from services.compression.orders import Material
from services.compression.reports import EVALUATION_REPORT, MEDIA_TYPE, evaluation_report
from shared.contracts.evaluation import (
    EvaluationFigures,
    FileSource,
    Gate,
    LibrarySource,
    Source,
    Task,
    TextTask,
    Verdict,
)
from shared.contracts.forge_orders import EvaluationResult
from workers.operations import compression_results as results
from workers.operations.compression_results import Output
from workers.runtime.forge import Made

ROWS = "evaluation-rows.jsonl"


@dataclass(frozen=True)
class Judged:
    """What was judged, and what came of it."""

    material: Material
    tasks: Sequence[Task]
    figures: EvaluationFigures
    gate: Gate | None
    verdict: Verdict | None

    def outputs(self, made: Made, result: EvaluationResult) -> list[Output]:
        """The report first."""
        charts = results.charts(made, result.charts)
        report = evaluation_report(
            self.figures,
            gate=self.gate,
            verdict=self.verdict,
            charts=charts,
            data={task.name: self._origins(task) for task in self.tasks},
            job_id=str(self.material.job_id),
        )
        rows = [Output(ROWS, "application/jsonl", made.path(result.rows))] if result.rows else []
        return [Output(EVALUATION_REPORT, MEDIA_TYPE, report), *rows, *results.drawn(charts)]

    def _origins(self, task: Task) -> list[Origin]:
        if not isinstance(task, TextTask):
            return [self._origin(FileSource(file_id=task.file_id))]
        return [self._origin(source) for source in task.data or [LibrarySource(type="library")]]

    def _origin(self, source: Source) -> Origin:
        if isinstance(source, FileSource):
            file = self.material.files[source.file_id]
            return Origin(f"{file.filename} ({file.file_id})", file.blob.sha256, file.blob.bytes, source.weight)
        text = library.described(held_out=True)
        return Origin(text.name, text.sha256, text.bytes, source.weight)
