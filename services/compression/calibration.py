"""The `calibration` kind: what a request becomes before it is written. Nothing here commits."""

from uuid import UUID

from sqlalchemy.orm import Session

from services.compression import inputs, planning, repository, results
from services.jobs.kinds import Kind, Prepared
from shared.contracts.compression import CalibrationSpec
from shared.contracts.jobs import Pool
from shared.db.models import CompressionJob
from shared.errors import inside


def prepare(session: Session, tenant_id: UUID, spec: CalibrationSpec) -> Prepared:
    """Fix the model, the files and the length of samples.

    Raises:
        UnknownModel: the tenant has no such model (`spec.model`).
        Unprocessable: the model is an adapter, or quantized already.
        ValidationFailed: samples are longer than the model's context, or a file cannot be used; each names its field.
    """
    with inside("spec"):
        model = inputs.model_of(session, tenant_id, spec.model)
        inputs.check_unquantized(model)
        sampling = inputs.sampled(spec.sampling, model)
        files = inputs.texts(session, tenant_id, _files(spec))
    spec = spec.model_copy(update={"model": inputs.full_name(model), "sampling": sampling})

    def extend(session: Session, job_id: UUID) -> None:
        row = CompressionJob(job_id=job_id, tenant_id=tenant_id, model_id=model.id)
        repository.insert(session, row, [file.id for file in files])

    return Prepared(
        spec=spec.model_dump(mode="json"),
        needs=planning.for_calibration(model, sampling),
        planned_gpu_s=planning.calibration_s(model, sampling, spec.schemes),
        unit="layers",
        extend=extend,
    )


def foresee(session: Session, tenant_id: UUID, spec: CalibrationSpec) -> None:
    """Judge the files of a calibration whose model is not there yet.

    Raises:
        ValidationFailed: one cannot be used; each names its field.
    """
    with inside("spec"):
        inputs.texts(session, tenant_id, _files(spec))


def _files(spec: CalibrationSpec) -> list[tuple[str, str]]:
    return [
        *inputs.of_sources(spec.data, param="data"),
        *inputs.of_sources(spec.sampling.reference, param="sampling.reference"),
    ]


KIND = Kind(
    name="calibration",
    spec=CalibrationSpec,
    pool=lambda _spec: Pool.FORGE,
    prepare=prepare,
    operation="workers.operations.calibration",
    result=results.judged,
    adapters=False,
    foresee=foresee,
)
