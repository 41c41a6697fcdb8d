"""A look at a base's layers before a tuning is written: modules that it does not have are refused at once."""

from collections.abc import Iterator
from typing import Final
from uuid import UUID

import orjson
from pydantic import ValidationError

from services.catalog.register import base_tensors
from services.compression.layers import HEAD, Shapes, linear_layers, meant
from services.tuning import inputs
from shared.contracts.jobs import JobRequest
from shared.contracts.tuning import RESULT, TuningSpec
from shared.db.session import Database
from shared.errors import FieldError, ValidationFailed, inside
from shared.storage import Store

KIND: Final = "tuning"
PARAM: Final = "lora.target_modules"


def concerns(request: JobRequest) -> bool:
    """Whether a request, or one of the jobs behind it, names modules of a model that is there."""
    return _names_modules(request) or any(concerns(later) for later in request.on_success)


def examine(request: JobRequest, *, database: Database, store: Store, tenant_id: UUID) -> None:
    """Look whether the modules that adapters are to be trained on are linear layers of the base.

    Call it with no transaction open. Where a checkpoint's names do not tell its modules, the forge looks alone.

    Raises:
        ValidationFailed: one is none; each names its field.
        UnknownModel, Unprocessable: as `prepare` of the kind.
        StoreUnavailable: the store cannot be reached.
    """
    if _names_modules(request):
        with inside("spec"):
            _examine(request, database=database, store=store, tenant_id=tenant_id)
    for number, later in enumerate(request.on_success):
        with inside(f"on_success.{number}"):
            examine(later, database=database, store=store, tenant_id=tenant_id)


def _names_modules(request: JobRequest) -> bool:
    lora = request.spec.get("lora")
    named = isinstance(lora, dict) and isinstance(lora.get("target_modules"), list)
    return request.kind == KIND and named and request.spec.get("model") != RESULT


def _examine(request: JobRequest, *, database: Database, store: Store, tenant_id: UUID) -> None:
    try:
        spec = TuningSpec.model_validate_json(orjson.dumps(request.spec))
    except ValidationError:
        return  # submitting says what is wrong with it
    if spec.lora is None or isinstance(spec.lora.target_modules, str):
        return
    with database.transaction() as session:
        base = inputs.base_of(session, tenant_id, spec.model)
    layers = linear_layers(base_tensors(store, base), base.config)
    errors = [] if layers is None else list(_unknown(spec.lora.target_modules, layers))
    if errors:
        raise ValidationFailed(errors[0].message, errors=tuple(errors))


def _unknown(wanted: list[str], layers: Shapes) -> Iterator[FieldError]:
    adapted = [name for name in layers if name != HEAD]
    known = sorted({name.rpartition(".")[2] for name in adapted})
    for number, name in enumerate(wanted):
        param = f"{PARAM}.{number}"
        if name.startswith("re:"):
            yield FieldError(param, "invalid_value", "is a name or its end after a dot, no expression")
        elif not meant(name, adapted):
            yield FieldError(param, "unknown_module", f"{name!r} is none of {', '.join(known)}")
