"""What a claimed job of the three kinds works on, and what its forge is told. No session leaves `read`, no HTTP."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy.orm import Session

from services.compression import repository, sources
from services.compression.about import Origin
from services.compression.library import Text
from services.compression.sources import FileRef
from services.inference.service import ServedModel, served
from services.jobs.types import Claim
from shared.contracts.compression import (
    SCHEMES,
    CalibrationSpec,
    Method,
    QuantizationSpec,
    Sampling,
    Scheme,
    needs_data,
)
from shared.contracts.evaluation import EvaluationSpec, FileSource, LibrarySource, Source, Task, TextTask
from shared.contracts.forge_orders import (
    CalibrateOrder,
    Data,
    EvaluateOrder,
    QuantizeOrder,
    SamplingOrder,
    Subject,
    TaskOrder,
)
from shared.manifest import Manifest
from shared.storage import Blob

CHECKPOINT: Final = "checkpoint"  #: below a forge's `out`
KEY_FORMAT: Final = 1  #: grows when calibrations of one key would become others
SPECS: Final[Mapping[str, type[CalibrationSpec | QuantizationSpec | EvaluationSpec]]] = {
    "calibration": CalibrationSpec,
    "evaluation": EvaluationSpec,
    "quantization": QuantizationSpec,
}
_LIBRARY: Final = LibrarySource(type="library")


@dataclass(frozen=True)
class UsedCalibration:
    """The calibration that a quantization goes by; the manifest is its artifact's."""

    id: UUID
    artifact_id: UUID
    manifest: Manifest


@dataclass(frozen=True)
class Material:
    """All that a claim needs to know."""

    job_id: UUID
    tenant_id: UUID
    spec: CalibrationSpec | QuantizationSpec | EvaluationSpec  #: as stored, nothing left open
    model: ServedModel
    baseline: ServedModel | None  #: of an evaluation alone
    calibration: UsedCalibration | None  #: of a quantization alone
    files: Mapping[str, FileRef]  #: by public id

    @property
    def tasks(self) -> Sequence[Task]:
        """What is judged."""
        if isinstance(self.spec, QuantizationSpec):
            return self.spec.evaluation.tasks if self.spec.evaluation else ()
        return self.spec.tasks if isinstance(self.spec, EvaluationSpec) else ()

    @property
    def sampling(self) -> Sampling | None:
        """How the job takes calibration samples of its own; None where it takes none."""
        return None if isinstance(self.spec, EvaluationSpec) else self.spec.sampling

    @property
    def data(self) -> Sequence[Source]:
        """Where calibration samples are taken from; none where none are."""
        if self.sampling is None or isinstance(self.spec, EvaluationSpec):
            return ()
        return self.spec.data or (_LIBRARY,)


def read(session: Session, claim: Claim) -> Material:
    """What was fixed when the job was submitted."""
    job = repository.job(session, claim.tenant_id, claim.job_id)
    assert job is not None, f"job {claim.job_id} has no columns"
    used = None
    if claim.kind == "quantization" and job.calibration_id is not None:
        row, manifest = repository.artifact_of(session, claim.tenant_id, job.calibration_id)
        used = UsedCalibration(row.id, row.artifact_id, Manifest.of_json(manifest))
    return Material(
        job_id=claim.job_id,
        tenant_id=claim.tenant_id,
        spec=SPECS[claim.kind].model_validate(claim.spec),
        model=served(session, claim.tenant_id, job.model_id),
        baseline=served(session, claim.tenant_id, job.baseline_id) if job.baseline_id else None,
        calibration=used,
        files=sources.by_id(repository.files(session, claim.tenant_id, claim.job_id)),
    )


def wanted(material: Material) -> dict[str, Blob]:
    """The contents to fetch, by their path below the folder of the data."""
    return sources.wanted(material.files)


def lay_library(material: Material, folder: Path) -> dict[str, Text]:
    """Write the parts of the library text that the job reads into the folder of its data; by their paths.

    Takes about a second.
    """
    return sources.lay_library(_sources(material), folder)


def origins(material: Material) -> list[Origin]:
    """Where the job's calibration samples come from."""
    return [sources.origin(material.files, source) for source in material.data]


def calibrate_order(material: Material, *, model: Path, data: Path) -> CalibrateOrder:
    """What a calibration's forge is told; the model and the data lie in these folders."""
    spec = material.spec
    assert isinstance(spec, CalibrationSpec)
    samples = _samples(material, data)
    assert samples is not None
    return CalibrateOrder(
        model=Subject(folder=model, name=spec.model), samples=samples, schemes=spec.schemes, group_size=spec.group_size
    )


def quantize_order(
    material: Material, *, model: Path, data: Path, out: Path, calibration: Path | None = None
) -> QuantizeOrder:
    """What a quantization's forge is told; `calibration` is the folder of the artifact that it goes by."""
    spec = material.spec
    assert isinstance(spec, QuantizationSpec)
    scheme = Scheme(spec.scheme)
    method = spec.method if SCHEMES[scheme].methods else Method.RTN
    subject = Subject(folder=model, name=spec.model)
    judged = None
    if spec.evaluation is not None:
        assert spec.name is not None
        candidate = Subject(folder=out / CHECKPOINT, name=spec.name)
        judged = EvaluateOrder(candidate=candidate, baseline=subject, tasks=_tasks(material, data))
    return QuantizeOrder(
        model=subject,
        scheme=scheme,
        method=method,
        group_size=spec.group_size or SCHEMES[scheme].group_size,
        ignore=spec.ignore,
        overrides=spec.overrides,
        smoothing_strength=spec.smoothing_strength,
        calibration=calibration if needs_data(scheme, method) else None,
        samples=_samples(material, data),
        evaluate=judged,
    )


def evaluate_order(material: Material, *, model: Path, baseline: Path | None, data: Path) -> EvaluateOrder:
    """What an evaluation's forge is told; the models lie in these folders."""
    spec = material.spec
    assert isinstance(spec, EvaluationSpec)
    assert (spec.baseline is None) == (baseline is None)
    beside = Subject(folder=baseline, name=spec.baseline) if baseline and spec.baseline else None
    return EvaluateOrder(
        candidate=Subject(folder=model, name=spec.model), baseline=beside, tasks=_tasks(material, data)
    )


def calibration_key(material: Material) -> str:
    """What a calibration is found again by: sha256 (hex) of the digests of its model and texts, and of its options.

    A source's weight counts beside others alone, and that of reference texts never does. May read the library
    text: call it with no transaction open.
    """
    spec = material.spec
    assert isinstance(spec, CalibrationSpec)
    told: dict[str, Any] = {
        "format": KEY_FORMAT,
        "model": material.model.digest,
        "data": _digests(material, material.data),
        "reference": [sources.origin(material.files, source).sha256 for source in spec.sampling.reference],
        "sampling": spec.sampling.model_dump(mode="json", exclude={"reference"}),
        "schemes": sorted(set(spec.schemes)),
        "group_size": spec.group_size,
    }
    return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _digests(material: Material, data: Sequence[Source]) -> list[tuple[str, float]]:
    lonely = len(data) == 1
    return [(sources.origin(material.files, source).sha256, 1.0 if lonely else source.weight) for source in data]


def _sources(material: Material) -> Iterator[tuple[Source, bool]]:
    """Every source that the job reads, and whether it is held out where it is library text."""
    yield from ((source, False) for source in material.data)
    yield from ((source, False) for source in (material.sampling.reference if material.sampling else ()))
    for task in material.tasks:
        if isinstance(task, TextTask):
            yield from ((source, True) for source in task.data or (_LIBRARY,))


def _samples(material: Material, folder: Path) -> SamplingOrder | None:
    sampling = material.sampling
    if sampling is None:
        return None
    return SamplingOrder(
        data=[sources.data(material.files, source, folder) for source in material.data],
        reference=[sources.data(material.files, source, folder) for source in sampling.reference],
        sampling=sampling,
    )


def _tasks(material: Material, folder: Path) -> list[TaskOrder]:
    return [TaskOrder(task=task, data=_task_data(material, task, folder)) for task in material.tasks]


def _task_data(material: Material, task: Task, folder: Path) -> list[Data]:
    if isinstance(task, TextTask):
        return [sources.data(material.files, source, folder, held_out=True) for source in task.data or (_LIBRARY,)]
    return [sources.data(material.files, FileSource(file_id=task.file_id), folder)]
