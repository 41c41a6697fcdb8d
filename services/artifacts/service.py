"""Results: named rows in front of blobs. A row appears with the end of its job, so what is seen is complete."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from services.artifacts import repository
from shared.db.models import Artifact
from shared.errors import NotFound
from shared.ids import new_id
from shared.manifest import Manifest
from shared.ranges import Slice
from shared.storage import Blob, Content, Store


@dataclass(frozen=True)
class NewArtifact:
    """A stored result that has no row yet.

    With a `manifest` it is a folder: `blob` holds the manifest's own JSON, its files are stored beside it.
    """

    name: str
    media_type: str
    blob: Blob
    position: int = 0
    manifest: Manifest | None = None


def add(session: Session, new: NewArtifact, *, tenant_id: UUID, job_id: UUID, attempt: int) -> Artifact:
    """Name a stored blob as a result of a running attempt, in the transaction that ends it."""
    row = Artifact(
        id=new_id(),
        job_id=job_id,
        tenant_id=tenant_id,
        attempt=attempt,
        position=new.position,
        name=new.name,
        media_type=new.media_type,
        bytes=new.blob.bytes,
        sha256=new.blob.sha256,
        manifest=None if new.manifest is None else new.manifest.as_json(),
    )
    return repository.add(session, row)


def get(session: Session, tenant_id: UUID, artifact_id: UUID) -> Artifact:
    """An artifact of the tenant.

    Raises:
        NotFound: there is none of that id.
    """
    artifact = repository.get(session, tenant_id, artifact_id)
    if artifact is None:
        raise NotFound("There is no such artifact.", param="artifact_id")
    return artifact


def of_job(session: Session, tenant_id: UUID, job_id: UUID) -> Sequence[Artifact]:
    """A job's artifacts, the main one first."""
    return repository.of_job(session, tenant_id, job_id)


def blob_of(artifact: Artifact, path: str | None = None) -> Blob:
    """The blob behind an artifact, or behind one file of an artifact that is a folder.

    Raises:
        NotFound: the artifact has no file of that path.
    """
    if path is None:
        return Blob(artifact.sha256, artifact.bytes)
    for entry in Manifest.of_json(artifact.manifest or ()):
        if entry.path == path:
            return entry.blob
    raise NotFound("The artifact has no such file.", param="path")


def content(store: Store, artifact: Artifact, *, wanted: Slice, path: str | None = None) -> Content:
    """The bytes of `blob_of`, as chunks. Call it with no transaction open.

    Raises:
        NotFound: the artifact has no file of that path.
        BlobMissing: the store has lost it.
        StoreUnavailable: the store cannot be reached.
    """
    blob = blob_of(artifact, path)
    return store.open(artifact.tenant_id, blob, start=wanted.start, length=wanted.length)
