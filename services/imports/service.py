"""Imports: what a request becomes before it is written, and a look at its files while somebody waits."""

from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from services.catalog import repository as rows
from services.catalog import service as catalog
from services.catalog.rules import ADAPTER, check_name, check_options
from services.catalog.safety import check_names, checked
from services.catalog.tree import BlobTree, FolderTree
from services.imports import sources
from services.imports.bucket import Bucket
from services.jobs import repository as jobs
from services.jobs.kinds import Prepared
from services.jobs.plan import Needs
from shared.contracts.imports import FilesSource, FolderSource, ImportSpec, S3Source
from shared.contracts.jobs import State
from shared.db.models import Model
from shared.db.session import Database
from shared.errors import InvalidField, Unprocessable, inside
from shared.settings import Settings, settings
from shared.storage import Store

PLANNED_S = 1.0  #: imports use no device; fair sharing charges them little


def prepare(session: Session, tenant_id: UUID, spec: ImportSpec) -> Prepared:
    """Check the names and the source, and fix the base of an adapter.

    Raises:
        InvalidField: a name is none.
        UnknownModel: `base_model` is no model of the tenant.
        SourceNotAllowed, SourceNotFound, ValidationFailed: as `services.imports.sources`.
    """
    with inside("spec"):
        stored = _checked(session, tenant_id, spec)
    return Prepared(spec=stored, needs=Needs(), planned_gpu_s=PLANNED_S, unit="bytes")


def made(session: Session, tenant_id: UUID, job_id: UUID) -> UUID | None:
    """The newest version of the name that an import has registered; None where there is none (any more).

    Content that was there already has made no version of its own, so that no row says which job is whose.
    """
    job = jobs.get(session, tenant_id, job_id)
    found = rows.named(session, tenant_id, job.spec["name"]) if job and job.state == State.SUCCEEDED else None
    return found.id if found else None


def _checked(session: Session, tenant_id: UUID, spec: ImportSpec) -> dict[str, Any]:
    """The spec as it is stored."""
    check_name(spec.name)
    if spec.alias is not None and check_name(spec.alias, param="alias") == spec.name:
        raise InvalidField("An alias is another name than the model's.", param="alias")
    check_options(spec.serving, adapter=spec.base_model is not None)
    stored: dict[str, Any] = spec.model_dump(mode="json", exclude_unset=True)
    if spec.base_model is not None:
        base = base_of(session, tenant_id, spec.base_model)
        stored["base_model"] = f"{base.name}@{base.version}"
    if isinstance(spec.source, FilesSource):
        sources.blobs_of(session, tenant_id, spec.source)
    elif isinstance(spec.source, S3Source):
        sources.bucket_of(spec.source, settings(), tenant_id)
    elif isinstance(spec.source, FolderSource):
        with suppress(sources.SourceNotFound):  # it may be on the workers' hosts alone
            sources.folder_of(spec.source, settings())
    return stored


def base_of(session: Session, tenant_id: UUID, name: str) -> Model:
    """The version that an adapter is to be served beside.

    Raises:
        UnknownModel: there is none.
        Unprocessable: it is an adapter itself.
    """
    base = catalog.get(session, tenant_id, name, param="base_model")
    if base.kind == ADAPTER:
        raise Unprocessable(f"{name} is an adapter itself.", param="base_model")
    return base


def examine(spec: ImportSpec, *, database: Database, store: Store, settings: Settings, tenant_id: UUID) -> None:
    """Look at a source's files as far as this host reaches, before a job is made of it. With no transaction open.

    Raises:
        UnsafeModel: a file is not allowed, or is missing; `param` names it.
        SourceNotAllowed, ValidationFailed: as `prepare`.
        SourceNotFound: nothing is below the S3 prefix.
        StoreUnavailable: the store cannot be reached.
    """
    source = spec.source
    if isinstance(source, FolderSource):
        with suppress(sources.SourceNotFound):
            checked(FolderTree(sources.folder_of(source, settings), store, tenant_id))
    elif isinstance(source, FilesSource):
        with database.transaction() as session:
            blobs = sources.blobs_of(session, tenant_id, source)
        checked(BlobTree(blobs, store, tenant_id))
    elif isinstance(source, S3Source):
        bucket = Bucket.of(settings, sources.bucket_of(source, settings, tenant_id))
        check_names(bucket.files(source.prefix))
