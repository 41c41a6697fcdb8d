"""A look at a model's layers before a job is made of a request: what the forge would refuse is refused at once."""

from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

import orjson
from pydantic import ValidationError

from services.catalog.register import base_tensors
from services.compression import inputs
from services.compression.layers import HEAD, Shapes, dividing, group_of, linear_layers, meant
from services.compression.quantization import calibration_of, recommended
from services.documents.patterns import BadPattern
from shared.contracts.compression import SCHEMES, QuantizationSpec, Scheme
from shared.contracts.jobs import JobRequest
from shared.contracts.tuning import RESULT
from shared.db.session import Database
from shared.errors import FieldError, ValidationFailed, inside
from shared.storage import Store

KIND: Final = "quantization"
NAMED: Final = 8  #: layers that a refusal names
WRONG: Final = 100  #: fields that it names


def concerns(request: JobRequest) -> bool:
    """Whether a request, or one of the jobs behind it, is worth a look."""
    return request.kind == KIND or any(concerns(later) for later in request.on_success)


def examine(request: JobRequest, *, database: Database, store: Store, tenant_id: UUID) -> None:
    """Look whether patterns of a quantization mean a layer, and groups divide the layers' columns.

    Call it with no transaction open. Where a checkpoint's names do not tell its modules, the forge looks alone. A
    model that an earlier job has yet to make is looked at when it is there, see workers/tasks/late.py.

    Raises:
        ValidationFailed: a pattern means nothing or is none, or a group size does not divide; each names its field.
        UnknownModel, Unprocessable: as `prepare` of the kind.
        StoreUnavailable: the store cannot be reached.
    """
    if request.kind == KIND:
        with inside("spec"):
            _examine(request, database=database, store=store, tenant_id=tenant_id)
    for number, later in enumerate(request.on_success):
        with inside(f"on_success.{number}"):
            examine(later, database=database, store=store, tenant_id=tenant_id)


def _examine(request: JobRequest, *, database: Database, store: Store, tenant_id: UUID) -> None:
    try:
        spec = QuantizationSpec.model_validate_json(orjson.dumps(request.spec))
    except ValidationError:
        return  # submitting says what is wrong with it
    if spec.model == RESULT:
        return
    given = spec.ignore if "ignore" in spec.model_fields_set else []
    with database.transaction() as session:
        model = inputs.model_of(session, tenant_id, spec.model)
        inputs.check_unquantized(model)
        spec = recommended(spec, calibration_of(session, tenant_id, spec, model))
    if not SCHEMES[Scheme(spec.scheme)].methods:
        return
    layers = linear_layers(base_tensors(store, model), model.config)
    if layers is not None:
        found = _Meanings(list(layers))
        errors = [*_patterns(spec, given, found), *_groups(spec, layers, found)]
        if errors:
            raise ValidationFailed(errors[0].message, errors=tuple(errors[:WRONG]))


class _Meanings:
    """Which of these names each pattern means; every pattern is tried once."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._found: dict[str, list[str] | BadPattern] = {}

    def of(self, pattern: str) -> list[str] | BadPattern:
        """The names, or why it is no pattern."""
        if pattern not in self._found:
            try:
                self._found[pattern] = meant(pattern, self.names)
            except BadPattern as error:
                self._found[pattern] = error
        return self._found[pattern]

    def of_all(self, patterns: Sequence[str]) -> list[str]:
        """The names that patterns mean together; a bad one means none."""
        found = [self.of(pattern) for pattern in patterns]
        return [name for names in found if not isinstance(names, BadPattern) for name in names]


def _patterns(spec: QuantizationSpec, ignored: Sequence[str], found: _Meanings) -> Iterator[FieldError]:
    """What is wrong with patterns that the caller has written."""
    written = [(f"ignore.{number}", pattern) for number, pattern in enumerate(ignored)]
    for place, override in enumerate(spec.overrides):
        written += [(f"overrides.{place}.layers.{number}", each) for number, each in enumerate(override.layers)]
    for param, pattern in written:
        names = found.of(pattern)
        if isinstance(names, BadPattern):
            yield FieldError(param, "bad_pattern", f"{pattern!r} cannot be used: {names}")
        elif not names and pattern != HEAD:
            yield FieldError(param, "pattern_matches_nothing", f"{pattern!r} means none of {_listed(found.names)}")


def _groups(spec: QuantizationSpec, layers: Shapes, found: _Meanings) -> Iterator[FieldError]:
    """Groups that do not divide the columns of the layers that get them."""
    free = dict(layers)
    for name in found.of_all(spec.ignore):
        free.pop(name, None)
    for place, override in enumerate(spec.overrides):  # the first that names a layer has it
        mine = {name: free.pop(name) for name in found.of_all(override.layers) if name in free}
        size = group_of(Scheme(override.scheme), override.group_size)
        yield from _undivided(mine, size, param=f"overrides.{place}.group_size")
    scheme = Scheme(spec.scheme)
    param = "group_size" if scheme is Scheme.W4A16 else "scheme"
    yield from _undivided(free, group_of(scheme, spec.group_size), param=param)


def _undivided(layers: Shapes, size: int | None, *, param: str) -> Iterator[FieldError]:
    wrong = [f"{name} ({columns})" for name, (_, columns) in layers.items() if size and columns % size]
    if wrong:
        fitting = ", ".join(map(str, dividing(layers.values()))) or "no size that is in use"
        message = f"groups of {size} do not divide the columns of {_listed(wrong)}; {fitting} would divide all"
        yield FieldError(param, "group_size_does_not_divide", message)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
