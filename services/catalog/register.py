"""From files to a model version: looked through, stored, described, and only then a row."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import adapters, aliases, repository
from services.catalog.describe import Description, describe, unpacked_shapes
from services.catalog.figures import kv_heads, text_config
from services.catalog.rules import ADAPTER, BASE, NameTaken, check_name, checked_serving
from services.catalog.safety import ADAPTER_CONFIG, WEIGHTS, Contents, checked
from services.catalog.tensors import Tensor, dtype_of, parse_header
from services.catalog.tree import BlobTree, FolderTree, Tell, Tree
from shared.contracts.serving import Serving
from shared.db.models import Model
from shared.db.session import Database
from shared.errors import Unprocessable
from shared.ids import new_id
from shared.manifest import Entry, Manifest
from shared.storage import Store


@dataclass(frozen=True)
class Wish:
    """A new version: its name, the base that an adapter belongs to, how it is served, where it is from."""

    name: str
    base: Model | None = None
    serving: Serving = Serving()  # noqa: RUF009 - immutable
    alias: str | None = None
    source: dict[str, Any] | None = None


def register_folder(database: Database, store: Store, tenant_id: UUID, *, name: str, folder: Path) -> Model:
    """Make a folder of weights and configuration a version of the model `name`.

    Raises:
        InvalidField: the name is none.
        NameTaken: an alias has it.
        UnsafeModel: the folder holds what we do not load.
        StoreUnavailable: the store did not take a file; nothing is registered.
    """
    check_name(name)
    wish = Wish(name, source={"type": "folder"})
    return register(database, store, tenant_id, FolderTree(folder, store, tenant_id), wish=wish)


@dataclass(frozen=True)
class Staged:
    """A version whose files are stored and described: all but its row, which may be written more than once."""

    values: dict[str, Any]  #: columns of the row, without id and version
    wish: Wish

    @property
    def digest(self) -> str:
        """That of the manifest."""
        return str(self.values["digest"])


def register(
    database: Database, store: Store, tenant_id: UUID, tree: Tree, *, wish: Wish, tell: Tell = lambda _: None
) -> Model:
    """Make files a version of the model `wish.name`: the blobs are stored first, the row comes after.

    The same content twice is one version. `tell` hears of bytes that are read or sent, and may raise to stop.

    Raises:
        ModelyardError: as `stage` and `write`; nothing is registered.
    """
    staged = stage(store, tenant_id, tree, wish=wish, tell=tell)
    with database.transaction() as session:
        return write(session, staged)


def stage(store: Store, tenant_id: UUID, tree: Tree, *, wish: Wish, tell: Tell = lambda _: None) -> Staged:
    """Look through files, store and describe them. Call it with no transaction open.

    Raises:
        UnsafeModel: the files hold what we do not load; `param` names the file.
        InvalidAdapter: an adapter cannot be served, or does not fit its base.
        Unprocessable: an adapter has no base, or what has one is no adapter.
        ValidationFailed: a serving option does not suit the model.
        StoreUnavailable: the store did not take a file.
    """
    contents = checked(tree)
    described = _described(contents, store, wish)
    manifest = Manifest.of(_entry(tree, path, tell) for path in contents.files)
    values = {
        "tenant_id": tenant_id,
        "name": wish.name,
        "kind": ADAPTER if wish.base else BASE,
        "base_id": wish.base.id if wish.base else None,
        "digest": manifest.digest,
        "manifest": manifest.as_json(),
        "config": described.config,
        "bytes": manifest.bytes,
        "parameters": described.parameters,
        "dtype": described.dtype,
        "context_length": described.context_length,
        "source": wish.source or {},
        "serving": wish.serving.model_dump(mode="json", exclude_unset=True),
    }
    checked_serving(wish.serving, Model(**values), kv_heads=kv_heads(text_config(described.config)))
    return Staged(values, wish)


def write(session: Session, staged: Staged) -> Model:
    """Make what is stored a version, in the caller's transaction: the row that is new, or that was there already.

    Raises:
        NameTaken: an alias has the name, or a model the alias.
    """
    model, wish = Model(id=new_id(), **staged.values), staged.wish
    for name in sorted({model.name, wish.alias or model.name}):  # in one order: two imports must not cross
        repository.lock_name(session, model.tenant_id, name)
    if repository.is_alias(session, model.tenant_id, model.name):
        raise NameTaken(f"An alias is called {model.name!r}.", param="name")
    written = repository.add(session, model)
    if written is not model and wish.serving.model_fields_set:
        written.serving = model.serving
    if wish.alias is not None:
        aliases.point(session, model.tenant_id, wish.alias, written)
    return written


def _entry(tree: Tree, path: str, tell: Tell) -> Entry:
    blob = tree.keep(path, tell=tell)
    return Entry(path, blob.sha256, blob.bytes)


def _described(contents: Contents, store: Store, wish: Wish) -> Description:
    if contents.adapter != (wish.base is not None):
        why = "an adapter needs base_model" if contents.adapter else f"there is no {ADAPTER_CONFIG}: it is no adapter"
        raise Unprocessable(why, param="base_model")
    if wish.base is None:
        return describe(contents)
    tensors, config = contents.all_tensors, dict(contents.configs[ADAPTER_CONFIG])
    rank = adapters.check_config(config)
    adapters.check_fit(tensors, rank=rank, base=unpacked_shapes(base_tensors(store, wish.base), wish.base.config))
    parameters = sum(tensor.elements for tensor in tensors)
    return Description(config, parameters, dtype_of(tensors), wish.base.context_length)


def base_tensors(store: Store, base: Model) -> list[Tensor]:
    """The tensors of a registered model: the heads of its blobs, read from the store."""
    blobs = {entry.path: entry.blob for entry in Manifest.of_json(base.manifest) if entry.path.endswith(WEIGHTS)}
    tree, found = BlobTree(blobs, store, base.tenant_id), list[Tensor]()
    for path, blob in blobs.items():
        with tree.open(path) as file:
            found.extend(parse_header(file, name=path, size=blob.bytes))
    return found
