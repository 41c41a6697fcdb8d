"""What is to become of a model once a job has made it: `--then merge --then quantize=w4a16 --then evaluate`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer

from services.cli import sources
from services.cli.job_request import check, only_given
from services.cli.sources import Given
from shared.contracts.compression import QuantizationSpec, Scheme
from shared.contracts.evaluation import EvaluationSpec
from shared.contracts.jobs import Contract
from shared.contracts.tuning import RESULT, MergeSpec

MERGE, QUANTIZE, EVALUATE = "merge", "quantize", "evaluate"
OPTION: Final = "--then"
Then = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STEP",
        help=f"{MERGE}, {QUANTIZE}=SCHEME, or {EVALUATE}[=FILE|ID] (a file of right answers); each works on what "
        "the one before made; may be repeated.",
    ),
]


@dataclass
class Chain:
    """Jobs that follow one another, and the files they read."""

    baseline: str | None  #: what evaluations compare with
    adapter: bool  #: whether what there is so far is an adapter
    texts: Sequence[Given] = ()  #: that evaluations look at; library text where there is none
    gpu_class: str | None = None
    first: list[dict[str, Any]] = field(default_factory=list)  #: the `on_success` of the request
    files: list[Given] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._last = self.first  # where the next step is put: behind the newest job that makes a model

    def add(self, step: str) -> None:
        """Put a step behind what there is. Raises typer.BadParameter."""
        name, equals, value = step.partition("=")
        known: dict[str, Callable[[str], None]] = {
            MERGE: self._merge, QUANTIZE: self._quantize, EVALUATE: self._evaluate
        }  # fmt: skip
        if name not in known or (equals and not value) or (name == MERGE and equals):
            message = f"{step!r} is none of {MERGE}, {QUANTIZE}=SCHEME and {EVALUATE}[=FILE|ID]"
            raise typer.BadParameter(message, param_hint=OPTION)
        if self.adapter is (name != MERGE):
            why = "needs a whole model: put merge before it" if self.adapter else "needs an adapter"
            raise typer.BadParameter(f"{name} {why}", param_hint=OPTION)
        known[name](value)

    def _merge(self, _value: str) -> None:
        self.adapter = False
        self._go_on("merge", MergeSpec, {"model": RESULT})

    def _quantize(self, scheme: str) -> None:
        if scheme not in list(Scheme):
            message = f"{scheme or 'nothing'} is no scheme: {', '.join(Scheme)}"
            raise typer.BadParameter(message, param_hint=OPTION)
        self._go_on("quantization", QuantizationSpec, {"model": RESULT, "scheme": scheme})

    def _evaluate(self, answers: str) -> None:
        tasks: list[dict[str, Any]] = [only_given({"type": "text", "data": [each.source for each in self.texts]})]
        self.files += self.texts
        if answers:
            file = sources.parse(answers, OPTION)
            tasks.append({"type": "generation", "file_id": file.file["file_id"]})
            self.files.append(file)
        spec = only_given({"model": RESULT, "baseline": self.baseline, "tasks": tasks})
        self._put("evaluation", EvaluationSpec, spec)

    def _go_on(self, kind: str, contract: type[Contract], spec: dict[str, Any]) -> None:
        """Put a job that makes a model: what comes next works on that."""
        self._last = self._put(kind, contract, spec).setdefault("on_success", [])

    def _put(self, kind: str, contract: type[Contract], spec: dict[str, Any]) -> dict[str, Any]:
        check(contract, spec)
        request = only_given({"kind": kind, "spec": spec, "gpu_class": self.gpu_class})
        self._last.append(request)
        return request
