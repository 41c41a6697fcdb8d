"""The `merge` kind: what a request becomes before it is written. Nothing here commits."""

from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import service as catalog
from services.catalog.figures import kv_heads, text_config
from services.catalog.rules import ADAPTER, checked_serving
from services.compression.inputs import full_name
from services.jobs.kinds import Kind, Prepared
from services.tuning import names, planning, repository, results
from shared.contracts.jobs import Pool
from shared.contracts.tuning import MergeSpec
from shared.db.models import Model, TuningJob
from shared.errors import Unprocessable, inside


def prepare(session: Session, tenant_id: UUID, spec: MergeSpec) -> Prepared:
    """Fix the adapter, its base and the result's name.

    Raises:
        UnknownModel: the tenant has no such model (`spec.model`).
        Unprocessable: it is no adapter, or its base is quantized.
        InvalidField: the result's name or its alias is no name.
        NameTaken: an alias has the result's name, or a model the alias.
        ValidationFailed: a serving option does not suit the base.
    """
    with inside("spec"):
        adapter = catalog.get(session, tenant_id, spec.model, param="model")
        base = _base(session, adapter)
        name = spec.name or f"{adapter.name}{names.MERGED}"
        catalog.check_names(session, tenant_id, name, spec.alias)
        checked_serving(spec.serving, base, kv_heads=kv_heads(text_config(base.config)))
    stored = spec.model_copy(update={"model": full_name(adapter), "name": name})
    serving = spec.serving.model_dump(mode="json", exclude_unset=True)

    def extend(session: Session, job_id: UUID) -> None:
        row = TuningJob(job_id=job_id, tenant_id=tenant_id, model_id=adapter.id, name=name)
        repository.insert(session, row, [])

    return Prepared(
        spec=stored.model_dump(mode="json", exclude={"serving"}) | {"serving": serving},
        needs=planning.merge_needs(base),
        planned_gpu_s=planning.merge_s(base),
        unit="layers",
        extend=extend,
    )


def foresee(session: Session, tenant_id: UUID, spec: MergeSpec) -> None:
    """Judge the names that are given, of a merge whose adapter is not there yet.

    Raises:
        InvalidField, NameTaken: as `services.catalog.service.check_names`.
    """
    if spec.name is not None:
        with inside("spec"):
            catalog.check_names(session, tenant_id, spec.name, spec.alias)


def _base(session: Session, adapter: Model) -> Model:
    if adapter.kind != ADAPTER:
        raise Unprocessable(f"{full_name(adapter)} is no adapter: there is nothing to merge.", param="model")
    base = catalog.base_of(session, adapter)
    assert base is not None  # an adapter's row has one
    if base.config.get("quantization_config") is not None:
        message = f"{full_name(base)} is quantized: an adapter is merged into the original."
        raise Unprocessable(message, param="model")
    return base


KIND = Kind(
    name="merge",
    spec=MergeSpec,
    pool=lambda _spec: Pool.FORGE,
    prepare=prepare,
    operation="workers.operations.merge",
    made=results.made,
    result=results.result,
    adapters=True,
    foresee=foresee,
)
