"""Models: a name and a version in front of a manifest of blobs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import repository
from services.catalog.safety import WEIGHTS, checked_files, read_config
from services.catalog.tensors import Tensor, UnsafeModel, dtype_of, read_header
from shared.db.models import Model
from shared.db.session import Database
from shared.errors import InvalidField, UnknownModel
from shared.ids import new_id
from shared.manifest import Manifest
from shared.storage import Store

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
#: the names under which architectures keep the longest sequence
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")
PAGE = 1000


def register_folder(database: Database, store: Store, tenant_id: UUID, *, name: str, folder: Path) -> Model:
    """Make a folder of weights and configuration a version of the model `name`.

    The blobs are stored first, the row comes after; the same content twice is one version.

    Raises:
        InvalidField: the name is none.
        UnsafeModel: the folder holds what we do not load.
        StoreUnavailable: the store did not take a file; nothing is registered.
    """
    if NAME.fullmatch(name) is None:
        raise InvalidField("A model's name is made of letters, digits and ._-, with at most one slash.", param="name")
    files = checked_files(folder)
    manifest = Manifest.of_files(folder, files)
    model = _describe(folder, files, manifest)
    with database.transaction() as session:
        known = repository.of_digest(session, tenant_id, name, manifest.digest)
    if known is not None:
        return known
    model.tenant_id, model.name = tenant_id, name
    for entry in manifest:
        store.put_file(tenant_id, folder / entry.path)
    with database.transaction() as session:
        return repository.add(session, model)


def get(session: Session, tenant_id: UUID, name: str, *, param: str = "spec.model") -> Model:
    """The newest version of the tenant's model.

    Raises:
        UnknownModel: there is none of that name; `param` names the offending field.
    """
    model = repository.latest(session, tenant_id, name)
    if model is None:
        raise UnknownModel(f"There is no model {name!r}.", param=param)
    return model


def by_id(session: Session, tenant_id: UUID, model_id: UUID) -> Model:
    """One version of the tenant's models.

    Raises:
        UnknownModel: there is none of that id.
    """
    model = repository.get(session, tenant_id, model_id)
    if model is None:
        raise UnknownModel
    return model


def page(session: Session, tenant_id: UUID, *, limit: int = PAGE) -> Sequence[Model]:
    """The newest version of each of the tenant's models, by name."""
    return repository.page(session, tenant_id, limit=limit)


def _describe(folder: Path, files: Sequence[Path], manifest: Manifest) -> Model:
    config = read_config(folder / "config.json")
    if not config:
        raise UnsafeModel("The folder holds no config.json.")
    tensors = [tensor for path in files if path.suffix == WEIGHTS for tensor in read_header(path)]
    return Model(
        id=new_id(),
        digest=manifest.digest,
        manifest=manifest.as_json(),
        config=config,
        bytes=manifest.bytes,
        parameters=_parameters(tensors),
        dtype=dtype_of(tensors),
        context_length=_context_length(config),
        source={"kind": "folder"},
    )


def _parameters(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.elements for tensor in tensors)


def _context_length(config: dict[str, Any]) -> int:
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            for key in CONTEXT_KEYS:
                if type(part.get(key)) is int and part[key] > 0:
                    return int(part[key])
    raise UnsafeModel(f"config.json says no context length ({', '.join(CONTEXT_KEYS)}).")
