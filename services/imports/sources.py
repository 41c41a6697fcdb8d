"""Where a model may come from, and what it is called there."""

from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import Session

from services.files import service as files
from shared.blobs import Blob
from shared.contracts.imports import FilesSource, FolderSource, S3Source
from shared.errors import FieldError, NotFound, Unprocessable, ValidationFailed
from shared.settings import Settings

BLOBS = "t/"  #: prefix of the platform's own objects, which nobody imports from


class SourceNotAllowed(Unprocessable):
    """Models may not be taken from there."""

    code = "source_not_allowed"


class SourceNotFound(Unprocessable):
    """There is nothing at the source."""

    code = "source_not_found"


def folder_of(source: FolderSource, settings: Settings) -> Path:
    """The folder that a source names, links resolved.

    Raises:
        SourceNotAllowed: there is no `models_root`, or the folder is not below it.
        SourceNotFound: there is no such folder on this host.
    """
    if settings.models_root is None:
        raise SourceNotAllowed(
            "Folders are not registered here: the setting models_root names none. Upload the files, or import them.",
            param="source.path",
        )
    root = settings.models_root.resolve()
    folder = (root / source.path).resolve()
    if folder == root or not folder.is_relative_to(root):
        raise SourceNotAllowed(f"{source.path[:128]} is not below models_root.", param="source.path")
    if not folder.is_dir():
        raise SourceNotFound(f"There is no folder {source.path[:128]} below models_root.", param="source.path")
    return folder


def bucket_of(source: S3Source, settings: Settings, tenant_id: UUID) -> str:
    """The bucket that a source names.

    Raises:
        SourceNotAllowed: the setting `models_s3` has no entry that the prefix is below.
    """
    bucket, prefix = source.bucket or settings.s3_bucket, f"{source.prefix.strip('/')}/"
    allowed = [entry.replace("{tenant}", str(tenant_id)).partition("/") for entry in settings.models_s3]
    within = any(
        bucket == name and prefix.startswith(f"{start.strip('/')}/" if start else "") for name, _, start in allowed
    )
    odd = {"", ".", ".."} & set(source.prefix.strip("/").split("/"))  # a store of files may take them for folders
    if odd or not within or (bucket == settings.s3_bucket and prefix.startswith(BLOBS)):
        raise SourceNotAllowed(
            f"{bucket}/{source.prefix[:128]} is below no entry of the setting models_s3.", param="source.prefix"
        )
    return bucket


def blobs_of(session: Session, tenant_id: UUID, source: FilesSource) -> dict[str, Blob]:
    """The blobs behind uploaded files, by path.

    Raises:
        ValidationFailed: ids that name no file of the tenant, or one of another purpose.
    """
    found, wrong = dict[str, Blob](), list[FieldError]()
    for path, file_id in source.files.items():
        try:
            file = files.get(session, tenant_id, file_id)
        except NotFound:
            wrong.append(FieldError(f"source.files.{path[:128]}", "not_found", "is no file of yours"))
            continue
        if file.purpose != files.Purpose.MODEL:
            wrong.append(FieldError(f"source.files.{path[:128]}", "wrong_purpose", "is not of purpose model"))
        found[path] = Blob(file.sha256, file.bytes)
    if wrong:
        raise ValidationFailed(errors=tuple(wrong))
    return found
