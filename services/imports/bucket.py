"""Objects of the store that somebody else put there: listed and fetched, never written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error

from services.imports.sources import SourceNotFound
from shared.blobs import CHUNK_BYTES
from shared.contracts.imports import FILES
from shared.errors import StoreUnavailable, Unprocessable
from shared.settings import Settings
from shared.storage import REGION

Tell = Callable[[int], None]


class Bucket:
    """A bucket of the platform's store."""

    def __init__(self, client: Minio, name: str) -> None:
        self._client, self.name = client, name

    @classmethod
    def of(cls, settings: Settings, name: str) -> Self:
        """A bucket of the store that the settings name."""
        client = Minio(
            settings.s3_endpoint,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key.get_secret_value(),
            secure=settings.s3_secure,
            region=REGION,
        )
        return cls(client, name)

    def files(self, prefix: str) -> dict[str, int]:
        """Bytes of every object below a prefix, by what follows the prefix.

        Raises:
            SourceNotFound: there is none, or no such bucket.
            Unprocessable: there are more than a model may have.
            StoreUnavailable: the store cannot be reached.
        """
        start = prefix.strip("/") + "/"
        found: dict[str, int] = {}
        with self._told(prefix):
            for each in self._client.list_objects(self.name, prefix=start, recursive=True):
                name = (each.object_name or "").removeprefix(start)
                if name and not each.is_dir:
                    found[name] = each.size or 0
                if len(found) > FILES:
                    raise Unprocessable(f"More than {FILES} objects are below {prefix}.", param="source.prefix")
        if not found:
            raise SourceNotFound(f"Nothing is below {self.name}/{start}.", param="source.prefix")
        return found

    def fetch(self, prefix: str, name: str, path: Path, *, tell: Tell) -> None:
        """Write an object to a file. `tell` hears of every chunk, and may raise to stop.

        Raises:
            SourceNotFound: it is gone.
            StoreUnavailable: the store cannot be reached, or stopped in the middle.
        """
        with self._told(name):
            response = self._client.get_object(self.name, f"{prefix.strip('/')}/{name}")
            try:
                with path.open("wb") as file:
                    for chunk in response.stream(CHUNK_BYTES):
                        file.write(chunk)
                        tell(len(chunk))
            finally:
                response.close()
                response.release_conn()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            if error.code in ("NoSuchBucket", "NoSuchKey", "NoSuchObject"):
                raise SourceNotFound(f"There is no {self.name}/{what}.", param="source.prefix") from error
            raise StoreUnavailable(f"The object store refuses to show {self.name} ({error.code}).") from error
        except (MinioException, InvalidResponseError, urllib3.exceptions.HTTPError) as error:
            raise StoreUnavailable(f"The object store cannot show {self.name} ({type(error).__name__}).") from error
