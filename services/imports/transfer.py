"""From a source to a registered version: fetched where it must be, looked through, stored. Blocks; in a thread."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import UUID

from services.catalog.register import Wish, register
from services.catalog.safety import check_names
from services.catalog.tree import BlobTree, FolderTree, Tree
from services.imports import service, sources
from services.imports.bucket import Bucket
from services.imports.hub import Hub
from shared.contracts.imports import FilesSource, FolderSource, HuggingFaceSource, ImportedModel, ImportSpec, S3Source
from shared.db.models import Model
from shared.db.session import Database
from shared.settings import Settings
from shared.storage import Store

Progress = Callable[[int, int], None]  #: (bytes done, bytes in all)


class Stopped(Exception):
    """Somebody asked the transfer to end."""


class Meter:
    """Bytes of a transfer whose every byte passes by `passes` times (fetched, hashed, sent)."""

    def __init__(self, progress: Progress, stopped: threading.Event) -> None:
        self._progress, self._stopped = progress, stopped
        self._total, self._passes, self._seen = 0, 1, 0

    def expect(self, sizes: Mapping[str, int], *, passes: int) -> None:
        """Say how much there is."""
        self._total, self._passes = sum(sizes.values()), passes

    def tell(self, count: int) -> None:
        """Count bytes. Raises Stopped when that was asked for."""
        if self._stopped.is_set():
            raise Stopped
        self._seen += count
        self._progress(min(self._total, self._seen // self._passes), self._total)

    def finish(self) -> None:
        """All is there; bytes that were stored before were never sent."""
        self._progress(self._total, self._total)


class Transfer:
    """One import. `scratch` is a folder of this host for what has to be fetched; its owner removes it."""

    def __init__(
        self, spec: ImportSpec, *, database: Database, store: Store, settings: Settings, tenant_id: UUID, scratch: Path
    ) -> None:
        self._spec = spec
        self._database, self._store, self._settings = database, store, settings
        self._tenant_id, self._scratch = tenant_id, scratch

    def run(self, meter: Meter) -> ImportedModel:
        """Register the version.

        Raises:
            UnsafeModel, InvalidAdapter, NameTaken, Unprocessable, UnknownModel: what is there cannot be registered.
            SourceNotFound, SourceNotAllowed, SourceForbidden, SourceUnreachable: nothing is there.
            StoreUnavailable, DatabaseUnavailable: try again.
            Stopped: the meter's event was set.
        """
        base = self._base()
        tree = self._tree(meter)
        model = register(self._database, self._store, self._tenant_id, tree, wish=self._wish(base), tell=meter.tell)
        meter.finish()
        return ImportedModel(
            id=str(model.id),
            name=model.name,
            version=model.version,
            kind=model.kind,
            digest=model.digest,
            bytes=model.bytes,
            parameters=model.parameters,
        )

    def _wish(self, base: Model | None) -> Wish:
        spec = self._spec
        source = spec.source.model_dump(mode="json", exclude_none=True, exclude={"files"})
        return Wish(spec.name, base=base, serving=spec.serving, alias=spec.alias, source=source)

    def _base(self) -> Model | None:
        if self._spec.base_model is None:
            return None
        with self._database.transaction() as session:
            return service.base_of(session, self._tenant_id, self._spec.base_model)

    def _tree(self, meter: Meter) -> Tree:
        source = self._spec.source
        if isinstance(source, FilesSource):
            with self._database.transaction() as session:
                blobs = sources.blobs_of(session, self._tenant_id, source)
            meter.expect({path: blob.bytes for path, blob in blobs.items()}, passes=1)
            return BlobTree(blobs, self._store, self._tenant_id)
        if isinstance(source, FolderSource):
            return self._folder(sources.folder_of(source, self._settings), meter, passes=2)
        if isinstance(source, S3Source):
            self._from_bucket(source, meter)
        else:
            self._from_hub(source, meter)
        return self._folder(self._scratch, meter, passes=3)

    def _folder(self, folder: Path, meter: Meter, *, passes: int) -> Tree:
        tree = FolderTree(folder, self._store, self._tenant_id)
        meter.expect(tree.sizes(), passes=passes)
        return tree

    def _from_bucket(self, source: S3Source, meter: Meter) -> None:
        bucket = Bucket.of(self._settings, sources.bucket_of(source, self._settings, self._tenant_id))
        files = bucket.files(source.prefix)
        check_names(files)
        meter.expect(files, passes=3)
        for name in sorted(files):
            bucket.fetch(source.prefix, name, self._place(name), tell=meter.tell)

    def _from_hub(self, source: HuggingFaceSource, meter: Meter) -> None:
        with Hub.of(source, self._settings) as hub:
            files = hub.files()
            check_names({file.path: file.bytes for file in files})
            meter.expect({file.path: file.bytes for file in files}, passes=3)
            for file in files:
                hub.fetch(file, self._place(file.path), tell=meter.tell)

    def _place(self, name: str) -> Path:
        path = self._scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
