"""The `evaluation` kind: what a request becomes before it is written. Nothing here commits."""

from uuid import UUID

from sqlalchemy.orm import Session

from services.compression import inputs, planning, repository, results
from services.jobs.kinds import Kind, Prepared
from shared.contracts.evaluation import EvaluationSpec
from shared.contracts.jobs import Pool
from shared.db.models import CompressionJob
from shared.errors import inside


def prepare(session: Session, tenant_id: UUID, spec: EvaluationSpec) -> Prepared:
    """Fix the models, the files and the length of sequences.

    Raises:
        UnknownModel: the tenant has no such model (`spec.model`, `spec.baseline`).
        Unprocessable: a model is an adapter, or the two count different tokens.
        ValidationFailed: a sequence is longer than a context, or a file cannot be used; each names its field.
    """
    with inside("spec"):
        model = inputs.model_of(session, tenant_id, spec.model)
        baseline = spec.baseline and inputs.model_of(session, tenant_id, spec.baseline, param="baseline")
        models = [model, baseline] if baseline else [model]
        if baseline:
            inputs.check_vocabularies(model, baseline, spec.tasks)
        tasks = inputs.measured(spec.tasks, models, param="tasks")
        files = inputs.texts(session, tenant_id, inputs.of_tasks(tasks, param="tasks"))
    update = {"model": inputs.full_name(model), "tasks": tasks}
    spec = spec.model_copy(update=update | ({"baseline": inputs.full_name(baseline)} if baseline else {}))

    def extend(session: Session, job_id: UUID) -> None:
        row = CompressionJob(
            job_id=job_id,
            tenant_id=tenant_id,
            model_id=model.id,
            baseline_id=baseline.id if baseline else None,
        )
        repository.insert(session, row, [file.id for file in files])

    return Prepared(
        spec=spec.model_dump(mode="json"),
        needs=planning.for_evaluation(models, tasks),
        planned_gpu_s=planning.evaluation_s(models, tasks),
        unit="samples",
        extend=extend,
    )


def foresee(session: Session, tenant_id: UUID, spec: EvaluationSpec) -> None:
    """Judge the files of an evaluation whose models are not all there yet.

    Raises:
        ValidationFailed: one cannot be used; each names its field.
    """
    with inside("spec"):
        inputs.texts(session, tenant_id, inputs.of_tasks(spec.tasks, param="tasks"))


KIND = Kind(
    name="evaluation",
    spec=EvaluationSpec,
    pool=lambda _spec: Pool.FORGE,
    prepare=prepare,
    operation="workers.operations.evaluation",
    result=results.judged,
    models=("model", "baseline"),
    adapters=False,
    foresee=foresee,
)
