"""The `tuning` kind: what a request becomes before it is written. Nothing here commits."""

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.compression.inputs import texts
from services.jobs.kinds import Kind, Prepared
from services.tuning import inputs, planning, repository, results
from shared.contracts.jobs import Pool
from shared.contracts.tuning import TuningSpec
from shared.db.models import TuningJob
from shared.errors import inside


def prepare(session: Session, tenant_id: UUID, spec: TuningSpec) -> Prepared:
    """Fix the base, the files, the adapter's shape, the learning rate and the result's name.

    A job that is run again has the same spec, name included: its result is the next version of that name.

    Raises:
        UnknownModel: the tenant has no such model (`spec.model`).
        Unprocessable: the model is an adapter or quantized already, or serving options are given for an adapter.
        InvalidField: the result's name or its alias is no name.
        NameTaken: an alias has the result's name, or a model the alias.
        ValidationFailed: a length is more than the context, a batch cannot be shared by the devices, a file or a
            serving option cannot be used; each names its field.
    """
    with inside("spec"):
        base = inputs.base_of(session, tenant_id, spec.model)
        spec = inputs.resolved(session, tenant_id, spec, base)
        files = texts(session, tenant_id, inputs.sources(spec))
    run = planning.run_of(spec, base, files)
    name = spec.name
    assert name is not None

    def extend(session: Session, job_id: UUID) -> None:
        row = TuningJob(job_id=job_id, tenant_id=tenant_id, model_id=base.id, name=name)
        repository.insert(session, row, [file.id for file in files])

    return Prepared(
        spec=_stored(spec),
        needs=planning.needs(run),
        planned_gpu_s=planning.START_S,
        total=spec.training.steps,
        unit="steps",
        advise=lambda plan: planning.advice(run, plan),
        extend=extend,
    )


def foresee(session: Session, tenant_id: UUID, spec: TuningSpec) -> None:
    """Judge what needs no base, of a tuning whose base is not there yet.

    Raises:
        ModelyardError: as `services.tuning.inputs.check_ahead`.
    """
    with inside("spec"):
        inputs.check_ahead(session, tenant_id, spec)


def _stored(spec: TuningSpec) -> dict[str, Any]:
    """As JSON; of serving, what was given, because the rest is not written to a version that is there already."""
    serving = spec.serving.model_dump(mode="json", exclude_unset=True)
    return spec.model_dump(mode="json", exclude={"serving"}) | {"serving": serving}


KIND = Kind(
    name="tuning",
    spec=TuningSpec,
    pool=lambda _spec: Pool.FORGE,
    prepare=prepare,
    operation="workers.operations.tuning",
    made=results.made,
    result=results.result,
    makes_adapter=lambda spec: not spec.method.merged,
    adapters=False,
    foresee=foresee,
    max_lost=10,  # hours of work: an attempt that dies before its first checkpoint has got no further
)
