"""What a tuning reads and trains, found and judged before a job is written: the base, the files, what is left open."""

from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import service as catalog
from services.catalog.figures import kv_heads, text_config
from services.catalog.rules import checked_serving
from services.compression import inputs
from services.tuning import names
from shared.contracts.serving import Serving
from shared.contracts.tuning import Lora, Training, TuningSpec
from shared.db.models import Model
from shared.errors import FieldError, Unprocessable, ValidationFailed
from shared.ids import new_id

LEARNING_RATES: Final = {False: 2e-5, True: 2e-4}  #: by whether an adapter is trained


def base_of(session: Session, tenant_id: UUID, name: str) -> Model:
    """The version that a tuning begins with.

    Raises:
        UnknownModel: the tenant has none of that name (`model`).
        Unprocessable: it is an adapter, or quantized.
    """
    model = inputs.model_of(session, tenant_id, name)
    inputs.check_unquantized(model)
    return model


def check_ahead(session: Session, tenant_id: UUID, spec: TuningSpec) -> None:
    """Judge what needs no base: the names that are given, the batch, the files.

    Raises:
        InvalidField, NameTaken: as `services.catalog.service.check_names`.
        ValidationFailed: a batch cannot be shared by the devices, or a file cannot be used; each names its field.
        Unprocessable: serving options of an adapter.
    """
    if spec.name is not None:
        catalog.check_names(session, tenant_id, spec.name, spec.alias)
    _check_devices(spec)
    _check_adapter(spec)
    inputs.texts(session, tenant_id, sources(spec))


def resolved(session: Session, tenant_id: UUID, spec: TuningSpec, base: Model) -> TuningSpec:
    """The spec with what it leaves open, as far as no data has to be read for it.

    Raises:
        ValidationFailed: a length is more than the base's context, a batch cannot be shared by the devices, or a
            serving option does not suit; each names its field.
        Unprocessable: serving options of an adapter.
        InvalidField, NameTaken: as `names`.
    """
    _check_lengths(spec.training, base)
    _check_devices(spec)
    _check_serving(spec, base)
    named = spec.name or names.made_up(session, tenant_id, base, suffix=spec.suffix, id=new_id())
    catalog.check_names(session, tenant_id, named, spec.alias)
    if spec.checkpoint_models:
        names.check_room(named)
    update: dict[str, Any] = {
        "model": inputs.full_name(base),
        "name": named,
        "suffix": None,  # it is part of the name now
        "lora": _lora(spec),
        "training": _training(spec),
    }
    return spec.model_copy(update=update)


def sources(spec: TuningSpec) -> Iterator[tuple[str, str]]:
    """(field, id) of each file that a tuning reads."""
    yield from inputs.of_sources(spec.data, param="data")
    yield from inputs.of_sources(spec.validation, param="validation")
    yield from inputs.of_sources(spec.preparation.reference if spec.preparation else [], param="preparation.reference")


def _lora(spec: TuningSpec) -> Lora | None:
    if not spec.method.adapts:
        return None
    lora = spec.lora or Lora()
    return lora if lora.alpha is not None else lora.model_copy(update={"alpha": 2.0 * lora.rank})


def _training(spec: TuningSpec) -> Training:
    if spec.training.learning_rate is not None:
        return spec.training
    return spec.training.model_copy(update={"learning_rate": LEARNING_RATES[spec.method.adapts]})


def _check_lengths(training: Training, base: Model) -> None:
    if (training.max_length or 0) > base.context_length:
        message = f"{inputs.full_name(base)} holds {base.context_length} tokens"
        param = "training.max_length"
        raise ValidationFailed(message, errors=(FieldError(param, "context_length_exceeded", message),))


def _check_devices(spec: TuningSpec) -> None:
    """A step is the same on every device: its batch is divided by them, and by their micro-batches."""
    size, micro = spec.training.batch_size, spec.training.micro_batch_size
    if isinstance(size, int) and size % (spec.devices * (micro if isinstance(micro, int) else 1)):
        what = f"{spec.devices} devices" + (f" with micro-batches of {micro}" if isinstance(micro, int) else "")
        message = f"a batch of {size} cannot be shared by {what}"
        raise ValidationFailed(message, errors=(FieldError("training.batch_size", "invalid_value", message),))


def _check_adapter(spec: TuningSpec) -> None:
    if not spec.method.merged and spec.serving != Serving():
        raise Unprocessable("An adapter is served by its base's engine: set serving on the base.", param="serving")


def _check_serving(spec: TuningSpec, base: Model) -> None:
    _check_adapter(spec)
    if spec.method.merged:
        checked_serving(spec.serving, base, kv_heads=kv_heads(text_config(base.config)))
