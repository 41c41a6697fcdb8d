"""Aliases: other names for one version of a model, which move from one to the next in one step."""

from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import repository
from services.catalog.rules import NameTaken, check_name
from shared.db.models import Model, ModelAlias
from shared.errors import NotFound


def point(session: Session, tenant_id: UUID, alias: str, model: Model) -> ModelAlias:
    """Let an alias stand for a version, from this transaction's commit on.

    Raises:
        InvalidField: it is no name (`alias`).
        NameTaken: a model has that name.
    """
    check_name(alias, param="alias")
    repository.lock_name(session, tenant_id, alias)
    if repository.is_model(session, tenant_id, alias):
        raise NameTaken(f"A model is called {alias!r}.", param="alias")
    return repository.point(session, tenant_id, alias, model.id)


def unpoint(session: Session, tenant_id: UUID, alias: str) -> None:
    """Forget an alias.

    Raises:
        NotFound: there is none of that name.
    """
    if not repository.unpoint(session, tenant_id, alias):
        raise NotFound("There is no such alias.", param="alias")


def page(session: Session, tenant_id: UUID) -> list[tuple[str, Model]]:
    """The tenant's aliases by name, each with its version."""
    return repository.aliases(session, tenant_id)
