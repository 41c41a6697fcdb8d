"""Rows for tests of the three kinds, written through the real services."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.compression import finishing, orders
from services.files import service as files
from services.jobs import lifecycle, service
from services.jobs.kinds import Prepared, kind
from services.jobs.types import Claim, Outcome
from shared.contracts.compression import Recommendation, Scheme
from shared.contracts.evaluation import EvaluationFigures
from shared.contracts.forge_orders import CalibrationResult, SampleFacts
from shared.contracts.jobs import JobRequest
from shared.db.models import Artifact, Calibration, Evaluation, File, Job, Model
from shared.errors import ModelyardError
from shared.ids import new_id
from shared.manifest import Entry, Manifest
from shared.storage import Blob
from tests.services.compression.found import figures
from tests.services.inference import build as inference
from tests.services.jobs import build

QUEUE = "cpu.forge"
FACTS = SampleFacts(samples=4, sequence_length=64, tokens=256, texts=9, sha256="ab" * 32)
LLAMA_8B: dict[str, Any] = {
    "config": inference.LLAMA_8B | {"vocab_size": 128_256, "intermediate_size": 14_336},
    "parameters": 8_030_261_248,
    "bytes": 16_060_522_496,
    "context_length": 8192,
    "digest": "80" * 32,
}


def model(session: Session, tenant_id: UUID, **overrides: Any) -> Model:
    """A small model of this name; nobody reads its files."""
    overrides.setdefault("digest", uuid4().hex * 2)
    return inference.model(session, tenant_id, **overrides)


def upload(session: Session, tenant_id: UUID, *, purpose: str = "calibration", **fields: Any) -> str:
    """A file's public id."""
    values = {"filename": "texts.jsonl", "bytes": 400, "sha256": uuid4().hex * 2} | fields
    row = File(id=new_id(), tenant_id=tenant_id, purpose=purpose, **values)
    session.add(row)
    session.flush()
    return files.public_id(row)


def submit(session: Session, tenant_id: UUID, kind: str, **spec: Any) -> Job:
    """A job on class cpu."""
    request = JobRequest(kind=kind, spec={"model": "tiny", **spec}, gpu_class="cpu")
    return service.submit(session, tenant_id, request).job


def claimed(session: Session, tenant_id: UUID, kind: str, **spec: Any) -> Claim:
    """A running job; nobody else has one."""
    submit(session, tenant_id, kind, **spec)
    (claim,) = build.claim(session, queue=QUEUE)
    return claim


def artifact(session: Session, claim: Claim, name: str = "calibration") -> Artifact:
    """A folder of one file."""
    manifest = Manifest.of([Entry("calibration.json", uuid4().hex * 2, 3)])
    new = NewArtifact(name, "application/json", Blob(uuid4().hex * 2, 9), manifest=manifest)
    return artifacts.add(session, new, tenant_id=claim.tenant_id, job_id=claim.job_id, attempt=claim.attempt)


def result(scheme: Scheme = Scheme.W4A16, **recommended: Any) -> CalibrationResult:
    """What a forge would have found."""
    told = Recommendation(scheme=scheme, **({"ignore": ["lm_head"]} | recommended))
    return CalibrationResult(facts=FACTS, recommendation=told, seconds=1.0)


def end(session: Session, claim: Claim) -> None:
    """The job has succeeded."""
    assert lifecycle.end(session, [build.ending(claim, Outcome.SUCCEEDED)])


def calibration(session: Session, tenant_id: UUID, found: CalibrationResult | None = None, **spec: Any) -> Calibration:
    """One that a job has made."""
    claim = claimed(session, tenant_id, "calibration", **spec)
    material = orders.read(session, claim)
    kept = finishing.keep_calibration(
        session,
        claim,
        material=material,
        key=orders.calibration_key(material),
        result=found or result(),
        artifact=artifact(session, claim),
    )
    end(session, claim)
    return kept


def evaluation(session: Session, tenant_id: UUID, **spec: Any) -> Evaluation:
    """One that a job has made."""
    claim = claimed(session, tenant_id, "evaluation", **spec)
    material = orders.read(session, claim)
    found: EvaluationFigures = figures()
    kept = finishing.keep_evaluation(
        session,
        claim,
        id=new_id(),
        figures=found,
        model_id=material.model.id,
        baseline_id=material.baseline.id if material.baseline else None,
        report=artifact(session, claim, "evaluation-report.html"),
    )
    end(session, claim)
    return kept


def prepare(session: Session, tenant: UUID, which: str, /, **spec: Any) -> Prepared:
    """What a request becomes."""
    if which == "quantization":
        spec.setdefault("scheme", "w4a16")
    row = kind(which)
    return row.prepare(session, tenant, row.spec.model_validate({"model": "tiny", **spec}))


def refused(session: Session, tenant: UUID, which: str, /, **spec: Any) -> ModelyardError:
    """Why a request is refused."""
    with pytest.raises(ModelyardError) as error:
        prepare(session, tenant, which, **spec)
    assert 400 <= error.value.status < 500
    return error.value


def source(file_id: str, **fields: Any) -> dict[str, Any]:
    """A file among sources."""
    return {"type": "file", "file_id": file_id, **fields}
