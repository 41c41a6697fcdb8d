"""What names and serving options are allowed, and how a refusal is called."""

import re

from shared.contracts.serving import Serving
from shared.db.models import Model
from shared.errors import Conflict, FieldError, InvalidField, Unprocessable, ValidationFailed
from shared.settings import settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._:-]{0,95})?")
#: what tuning calls its results, and what is called after them: the base's, the tenant's and the caller's words in one
TUNED = re.compile(r"ft:[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._:-]*)?")
TUNED_CHARACTERS = 240  #: of such a name, so that `name@version` is no longer than a spec's names may be
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
RESERVED = ("/versions", "/compare")  #: a name with this end would hide a route,
COMPARED = "compare/"  #: and one with this beginning would be read as a part of one: `a/compare/compare/b`
ENGINES = ("transformers", "vllm")
BASE, ADAPTER = "base", "adapter"


class NameTaken(Conflict):
    """Another object of yours has this name: models and aliases share their names."""

    code = "name_taken"


class ModelInUse(Conflict):
    """The model is in use."""

    code = "model_in_use"


def check_name(name: str, *, param: str = "name") -> str:
    """A name that a model or an alias may have.

    Raises:
        InvalidField: it may not; `param` names the field.
    """
    spelled = NAME.fullmatch(name) or (TUNED.fullmatch(name) and len(name) <= TUNED_CHARACTERS)
    if not spelled or ID.fullmatch(name) or name.endswith(RESERVED) or name.startswith(COMPARED):
        raise InvalidField(
            "A model's name is made of letters, digits and ._:-, with at most one slash; it is no id.", param=param
        )
    return name


def checked_serving(serving: Serving, model: Model, *, kv_heads: int) -> Serving:
    """Serving options that suit a model.

    Raises:
        ValidationFailed: the context is longer than the model's, or the degree of tensor parallelism does not
            divide its KV heads; or as `check_options`.
        Unprocessable: as `check_options`.
    """
    check_options(serving, adapter=model.kind == ADAPTER)
    if (serving.context_length or 0) > model.context_length:
        raise bad_option("context_length", f"is more than the model's {model.context_length}")
    if kv_heads % (serving.tensor_parallel or 1):
        raise bad_option("tensor_parallel", f"does not divide the model's {kv_heads} KV heads")
    return serving


def check_options(serving: Serving, *, adapter: bool) -> None:
    """What can be said of serving options before the model is known.

    Raises:
        ValidationFailed: there is no such engine.
        Unprocessable: an adapter has options of its own.
    """
    if adapter and serving != Serving():
        raise Unprocessable("An adapter is served by its base's engine: set serving on the base.", param="serving")
    known = (*ENGINES, *settings().engine_commands)
    if serving.engine is not None and serving.engine not in known:
        raise bad_option("engine", f"is not one of {', '.join(known)}")


def bad_option(field: str, why: str) -> ValidationFailed:
    """The refusal of one serving option."""
    return ValidationFailed(errors=(FieldError(f"serving.{field}", "invalid_value", f"serving.{field} {why}"),))
