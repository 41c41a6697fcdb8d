"""Models: a name and a version in front of a manifest of blobs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy.orm import Session

from services.catalog import repository
from services.catalog.register import Wish, register, register_folder
from services.catalog.repository import Replicas
from services.catalog.rules import ID, ModelInUse, NameTaken, bad_option, check_name, checked_serving
from shared.contracts.serving import Serving
from shared.db.models import Model
from shared.errors import InvalidField, UnknownModel

__all__ = [
    "Shown", "Wish", "base_of", "by_id", "check_names", "delete", "delete_unused", "get", "page", "register",
    "register_folder", "serve", "shown", "versions",
]  # fmt: skip

PAGE = 1000
DEMAND_S = 15.0  #: a demand that was not renewed for so long is nobody's

_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Shown:
    """A model version with what else is known of it."""

    row: Model
    base: Model | None
    aliases: tuple[str, ...]
    replicas: Replicas


def get(session: Session, tenant_id: UUID, name: str, *, param: str = "spec.model") -> Model:
    """The version of the tenant's models that `name` stands for.

    It is a model's name (its newest version counts), an alias, `name@version`, or a version's id. Deleted
    versions stand for nothing.

    Raises:
        UnknownModel: it stands for none; `param` names the offending field.
    """
    model = _find(session, tenant_id, name)
    if model is None:
        raise UnknownModel(f"There is no model {name[:128]!r}.", param=param)
    return model


def by_id(session: Session, tenant_id: UUID, model_id: UUID) -> Model:
    """One version of the tenant's models, deleted since or not.

    Raises:
        UnknownModel: there is none of that id.
    """
    model = repository.get(session, tenant_id, model_id)
    if model is None:
        raise UnknownModel
    return model


def base_of(session: Session, model: Model) -> Model | None:
    """The version that an adapter is served beside; None of a model that stands alone."""
    return None if model.base_id is None else by_id(session, model.tenant_id, model.base_id)


def page(session: Session, tenant_id: UUID, *, limit: int = PAGE) -> Sequence[Model]:
    """The newest version of each of the tenant's models, by name."""
    return repository.page(session, tenant_id, limit=limit)


def versions(session: Session, tenant_id: UUID, name: str) -> Sequence[Model]:
    """All versions of a model, newest first.

    Raises:
        UnknownModel: there is none of that name (`model`).
    """
    found = repository.versions(session, tenant_id, get(session, tenant_id, name, param="model").name)
    return found[:PAGE]


def shown(session: Session, rows: Sequence[Model]) -> list[Shown]:
    """Rows of one tenant with their bases, aliases and ready engines, in three statements."""
    bases = {base.id: base for base in repository.bases(session, [row.base_id for row in rows if row.base_id])}
    aliases = repository.aliases_of(session, [row.id for row in rows])
    base = [bases.get(row.base_id) if row.base_id else None for row in rows]
    served = [
        (own.digest if own else row.digest, row.digest if own else None) for row, own in zip(rows, base, strict=True)
    ]
    ready = repository.replicas(session, served)
    return [
        Shown(row, own, tuple(aliases.get(row.id, ())), ready.get(key, Replicas()))
        for row, own, key in zip(rows, base, served, strict=True)
    ]


def serve(session: Session, model: Model, changes: dict[str, Any], *, kv_heads: int) -> None:
    """Change serving options of a version: those that are given. Engines that run already keep theirs.

    Raises:
        ValidationFailed, Unprocessable: as `checked_serving`.
    """
    stored = repository.locked(session, model).serving
    merged = stored | changes
    if isinstance(changes.get("batching"), dict):
        merged["batching"] = stored.get("batching", {}) | changes["batching"]
    try:
        wished = Serving.model_validate(merged)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise bad_option(".".join(map(str, first["loc"])), first["msg"]) from error
    model.serving = checked_serving(wished, model, kv_heads=kv_heads).model_dump(mode="json", exclude_unset=True)
    session.flush()


def check_names(session: Session, tenant_id: UUID, name: str, alias: str | None) -> None:
    """Judge the names of a job's result while somebody waits; they are judged again when it is registered.

    Raises:
        InvalidField: one is no name, or both are the same.
        NameTaken: an alias has the name, or a model the alias.
    """
    check_name(name)
    if repository.is_alias(session, tenant_id, name):
        raise NameTaken(f"An alias is called {name!r}.", param="name")
    if alias is None:
        return
    if check_name(alias, param="alias") == name:
        raise InvalidField("An alias is another name than the model's.", param="alias")
    if repository.is_model(session, tenant_id, alias):
        raise NameTaken(f"A model is called {alias!r}.", param="alias")


def delete(session: Session, tenant_id: UUID, name: str) -> None:
    """Delete a model with all its versions, or the one version that `name@version` or an id stands for.

    Jobs that have run keep what they are; engines that have it loaded unload it when they are idle.

    Raises:
        UnknownModel: there is none of that name (`model`).
        ModelInUse: a job, an alias, an adapter or a waiting call needs one of the versions.
    """
    model = get(session, tenant_id, name, param="model")
    rows = repository.versions(session, tenant_id, name) if name == model.name else [model]
    ids = repository.lock_all(session, [row.id for row in rows])
    used = repository.uses(session, tenant_id, ids, demand_s=DEMAND_S)
    if used:
        told = ", ".join(f"{what} ({count})" for what, count in used.items())
        raise ModelInUse(f"{name} is in use by {told}.", param="model")
    repository.mark_deleted(session, ids)


def delete_unused(session: Session, tenant_id: UUID, ids: Sequence[UUID]) -> None:
    """Delete those of these versions that nothing needs now; the others stay."""
    for model_id in repository.lock_all(session, ids) if ids else ():
        if not repository.uses(session, tenant_id, [model_id], demand_s=DEMAND_S):
            repository.mark_deleted(session, [model_id])


def _find(session: Session, tenant_id: UUID, name: str) -> Model | None:
    if ID.fullmatch(name):
        return repository.living(session, tenant_id, UUID(name))
    stem, at, number = name.rpartition("@")
    if not at:
        return repository.named(session, tenant_id, name)
    return repository.version(session, tenant_id, stem, int(number)) if _VERSION.fullmatch(number) else None
