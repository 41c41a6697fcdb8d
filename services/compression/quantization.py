"""The `quantization` kind: what a request becomes before it is written. Nothing here commits."""

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import service as catalog
from services.catalog.figures import kv_heads, text_config
from services.catalog.rules import bad_option, checked_serving
from services.compression import inputs, planning, repository, results
from services.jobs.kinds import Kind, Prepared
from shared.contracts.compression import (
    SCHEMES,
    Method,
    QuantizationSpec,
    Recommendation,
    Sampling,
    Scheme,
    needs_data,
)
from shared.contracts.jobs import Pool
from shared.db.models import Calibration, CompressionJob, Model
from shared.errors import Unprocessable, inside
from shared.ids import parse

SMOOTHING = 0.5  #: SmoothQuant's own choice for most models (arXiv 2211.10438)


def prepare(session: Session, tenant_id: UUID, spec: QuantizationSpec) -> Prepared:
    """Fix the model, the scheme with all that belongs to it, the samples, the tasks and the result's name.

    Raises:
        UnknownModel: the tenant has no such model (`spec.model`).
        Unprocessable: the model is an adapter or quantized already, the calibration is none of it, or data is given
            where none is needed.
        InvalidField: the result's name or its alias is no name.
        NameTaken: an alias has the result's name, or a model the alias.
        ValidationFailed: samples or sequences are longer than the model's context, a file or a serving option cannot
            be used; each names its field.
    """
    with inside("spec"):
        model = inputs.model_of(session, tenant_id, spec.model)
        inputs.check_unquantized(model)
        calibration = calibration_of(session, tenant_id, spec, model)
        spec = _resolved(spec, model, calibration)
        check_names(session, tenant_id, spec)
        _check_devices(spec)
        _check_serving(spec, model)
        files = inputs.texts(session, tenant_id, _files(spec))

    def extend(session: Session, job_id: UUID) -> None:
        row = CompressionJob(
            job_id=job_id,
            tenant_id=tenant_id,
            model_id=model.id,
            calibration_id=calibration.id if calibration else None,
        )
        repository.insert(session, row, [file.id for file in files])

    tasks = spec.evaluation.tasks if spec.evaluation else ()
    sampling = Sampling.model_validate(calibration.spec["sampling"]) if calibration else spec.sampling
    schemes = [Scheme(spec.scheme), *(Scheme(each.scheme) for each in spec.overrides)]
    return Prepared(
        spec=_stored(spec),
        needs=planning.for_quantization(model, schemes, sampling=sampling, tasks=tasks, devices=spec.devices),
        planned_gpu_s=planning.quantization_s(model, spec.method, sampling=sampling, tasks=tasks),
        unit="layers",
        extend=extend,
    )


def made(session: Session, tenant_id: UUID, job_id: UUID) -> UUID | None:
    """The version that a job has registered; None of one that has not, or was not good enough."""
    row = repository.job(session, tenant_id, job_id)
    return row.result_model_id if row else None


def foresee(session: Session, tenant_id: UUID, spec: QuantizationSpec) -> None:
    """Judge the names and the files of a quantization whose model is not there yet.

    Raises:
        Unprocessable: it names a calibration, which is of a model that is there.
        InvalidField, NameTaken: as `check_names`.
        ValidationFailed: a file cannot be used; each names its field.
    """
    with inside("spec"):
        if spec.calibration is not None:
            message = "A calibration is of a model that is there: give sampling, or data, instead."
            raise Unprocessable(message, param="calibration")
        if spec.name is not None:
            check_names(session, tenant_id, spec)
        inputs.texts(session, tenant_id, _files(spec))


def calibration_of(session: Session, tenant_id: UUID, spec: QuantizationSpec, model: Model) -> Calibration | None:
    """The calibration that a spec names by its id or its artifact's; None where it names none.

    Raises:
        Unprocessable: the tenant has none of that id, or it is another model's.
    """
    if spec.calibration is None:
        return None
    parsed = parse(spec.calibration)
    found = None if parsed is None else repository.calibration(session, tenant_id, parsed)
    if found is None:
        raise Unprocessable(f"There is no calibration {spec.calibration[:64]!r}.", param="calibration")
    if found.model_digest != model.digest:
        raise Unprocessable(f"The calibration is of other weights than {inputs.full_name(model)}.", param="calibration")
    return found


def recommended(spec: QuantizationSpec, calibration: Calibration | None) -> QuantizationSpec:
    """The spec with what its calibration recommends, where it asks for that.

    Raises:
        Unprocessable: an option that the spec gives is not one of the scheme's.
    """
    if spec.scheme != "recommended":
        return spec
    assert calibration is not None  # the contract has seen to it
    told = Recommendation.model_validate(calibration.recommendation)
    wanted: dict[str, Any] = {"scheme": told.scheme}
    if "ignore" not in spec.model_fields_set:
        wanted["ignore"] = told.ignore
    if spec.smoothing_strength is None and told.scheme is Scheme.INT8:
        wanted["smoothing_strength"] = told.smoothing_strength
    if spec.group_size is None and told.scheme is Scheme.W4A16:
        wanted["group_size"] = calibration.spec["group_size"]  # the one that was measured
    try:
        QuantizationSpec.model_validate(spec.model_dump() | wanted)
    except ValueError as error:
        message = f"The calibration recommends {told.scheme}, which one of the options does not suit."
        raise Unprocessable(message, param="scheme") from error
    return spec.model_copy(update=wanted)


def check_names(session: Session, tenant_id: UUID, spec: QuantizationSpec) -> None:
    """Judge the names of the result while somebody waits; they are judged again when it is registered.

    Raises:
        InvalidField, NameTaken: as `services.catalog.service.check_names`.
    """
    assert spec.name is not None
    catalog.check_names(session, tenant_id, spec.name, spec.alias)


def _check_devices(spec: QuantizationSpec) -> None:
    scheme = Scheme(spec.scheme)
    if spec.devices > 1 and not needs_data(scheme, spec.method):
        message = f"{_made(scheme, spec.method)} looks at no data that devices could share."
        raise Unprocessable(message, param="devices")


def _resolved(spec: QuantizationSpec, model: Model, calibration: Calibration | None) -> QuantizationSpec:
    spec = recommended(spec, calibration)
    scheme = Scheme(spec.scheme)
    facts = SCHEMES[scheme]
    method = facts.methods[0] if spec.method is Method.AUTO and facts.methods else spec.method
    update: dict[str, Any] = {
        "model": inputs.full_name(model),
        "name": spec.name or f"{model.name}-{scheme}",
        "method": method,
        "sampling": _sampling(spec, scheme, method, model),
    }
    if calibration is not None:
        update["calibration"] = str(calibration.id)
    if facts.group_size is not None and spec.group_size is None and scheme is Scheme.W4A16:
        update["group_size"] = facts.group_size
    if scheme is Scheme.INT8 and spec.smoothing_strength is None:
        update["smoothing_strength"] = SMOOTHING
    if spec.evaluation is not None:
        tasks = inputs.measured(spec.evaluation.tasks, [model], param="evaluation.tasks")
        update["evaluation"] = spec.evaluation.model_copy(update={"tasks": tasks})
    return spec.model_copy(update=update)


def _sampling(spec: QuantizationSpec, scheme: Scheme, method: Method, model: Model) -> Sampling | None:
    if spec.calibration is not None:
        return None
    if needs_data(scheme, method):
        return inputs.sampled(spec.sampling or Sampling(), model)
    for name, given in (("data", spec.data), ("sampling", spec.sampling)):
        if given:
            raise Unprocessable(f"{_made(scheme, method)} looks at no data: leave {name} out.", param=name)
    return None


def _made(scheme: Scheme, method: Method) -> str:
    return f"{scheme} by {method}" if SCHEMES[scheme].methods else scheme


def _files(spec: QuantizationSpec) -> list[tuple[str, str]]:
    return [
        *inputs.of_sources(spec.data, param="data"),
        *inputs.of_sources(spec.sampling.reference if spec.sampling else [], param="sampling.reference"),
        *inputs.of_tasks(spec.evaluation.tasks if spec.evaluation else [], param="evaluation.tasks"),
    ]


def _check_serving(spec: QuantizationSpec, model: Model) -> None:
    checked_serving(spec.serving, model, kv_heads=kv_heads(text_config(model.config)))
    if spec.serving.quantization is not None and SCHEMES[Scheme(spec.scheme)].methods:
        raise bad_option("quantization", f"is for weights of 16 bits: {spec.scheme} has quantized them")


def _stored(spec: QuantizationSpec) -> dict[str, Any]:
    """As JSON; of serving, what was given, because the rest is not written to a version that is there already."""
    serving = spec.serving.model_dump(mode="json", exclude_unset=True)
    return spec.model_dump(mode="json", exclude={"serving"}) | {"serving": serving}


KIND = Kind(
    name="quantization",
    spec=QuantizationSpec,
    pool=lambda _spec: Pool.FORGE,
    prepare=prepare,
    operation="workers.operations.quantization",
    result=results.made,
    made=made,
    adapters=False,
    foresee=foresee,
)
