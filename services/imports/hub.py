"""Repositories of the Hugging Face Hub, read over its HTTP (huggingface.co/docs/hub/api).

| request | answer |
|---|---|
| `GET /api/models/{repo}/revision/{commit}?blobs=true` | `siblings`: `rfilename`, `size`, `lfs.sha256` of large files |
| `GET /{repo}/resolve/{commit}/{path}` | the bytes, mostly by a redirect to a content network |

Only the setting `huggingface_endpoint` is asked; the token goes to it alone, never to where it redirects.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from services.catalog.safety import ADAPTER_WEIGHTS, INDEX, SINGLE, WEIGHTS, is_allowed
from services.catalog.tensors import UnsafeModel
from services.catalog.tree import check_path
from services.imports.sources import SourceNotFound
from shared.contracts.imports import FILES, HuggingFaceSource
from shared.errors import ModelyardError, Unprocessable
from shared.settings import Settings

CONNECT_S, READ_S = 5.0, 8.0  # a cancelled import ends within 10 s, also when nothing comes
PAUSES = (0.5, 1.0, 2.0)  # seconds before a broken transfer goes on
REDIRECTS = 5

Tell = Callable[[int], None]
T = TypeVar("T")


class SourceUnreachable(ModelyardError):
    """The source of the model cannot be reached from this worker."""

    code = "source_unreachable"
    status = 503


class SourceForbidden(Unprocessable):
    """The source asks for permission that this deployment does not have."""

    code = "source_forbidden"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; `sha256` where the Hub knows it."""

    path: str
    bytes: int
    sha256: str | None


class Hub:
    """A repository at one commit."""

    def __init__(
        self, source: HuggingFaceSource, *, endpoint: str, token: str = "", pauses: Sequence[float] = PAUSES
    ) -> None:
        self._source, self._endpoint, self._pauses = source, endpoint.rstrip("/"), pauses
        self._http = httpx.Client(
            headers={"user-agent": "modelyard"} | ({"authorization": f"Bearer {token}"} if token else {}),
            timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
            follow_redirects=True,  # httpx drops the token where the origin changes
            max_redirects=REDIRECTS,
        )

    @classmethod
    def of(cls, source: HuggingFaceSource, settings: Settings) -> Self:
        """A repository of the Hub that the settings name."""
        token = settings.huggingface_token.get_secret_value()
        return cls(source, endpoint=settings.huggingface_endpoint, token=token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def files(self) -> list[HubFile]:
        """The files that a model is made of; whatever else a repository holds is left there.

        Raises:
            UnsafeModel: it has no safetensors weights, or the Hub names a path that leaves its folder.
            SourceNotFound, SourceForbidden, SourceUnreachable: as the Hub answers, or does not.
        """
        path = f"/api/models/{self._source.repo_id}/revision/{self._source.revision}"
        rows = self._patiently(lambda: self._list(path))
        found = [file for file in rows if is_allowed(file.path)]
        if not any(file.path.endswith(WEIGHTS) for file in found):
            other = next((file.path for file in rows if file.path.endswith((".bin", ".pt", ".pth", ".gguf"))), "none")
            raise UnsafeModel(f"{self._source.repo_id} has no {WEIGHTS} weights (it has {other[:80]}).", param=other)
        return _needed(found)

    def fetch(self, file: HubFile, path: Path, *, tell: Tell) -> None:
        """Write a file, going on where a broken transfer stopped. `tell` hears of every chunk, and may raise to stop.

        Raises:
            SourceUnreachable: it broke too often, or what came is not what the Hub promised.
            SourceNotFound, SourceForbidden: as the Hub answers.
        """
        url = f"/{self._source.repo_id}/resolve/{self._source.revision}/{quote(file.path)}"
        self._patiently(lambda: self._append(url, path, most=file.bytes, tell=tell))
        _check(file, path)

    def _list(self, path: str) -> list[HubFile]:
        with self._asked(path, params={"blobs": "true"}) as answer:
            answer.read()
            return _rows(answer)

    def _append(self, url: str, path: Path, *, most: int, tell: Tell) -> None:
        tell(0)  # whoever asked us to stop need not wait for the first byte
        there = path.stat().st_size if path.exists() else 0
        headers = {"accept-encoding": "identity"} | ({"range": f"bytes={there}-"} if there else {})
        with self._asked(url, headers=headers) as answer:
            goes_on = answer.status_code == HTTPStatus.PARTIAL_CONTENT
            size = there if goes_on else 0
            with path.open("ab" if goes_on else "wb") as out:
                for chunk in answer.iter_bytes():
                    size += len(chunk)
                    if size > most:
                        raise SourceUnreachable(f"{path.name}: more bytes came than the Hub promised.")
                    out.write(chunk)
                    tell(len(chunk))

    def _patiently(self, work: Callable[[], T]) -> T:
        """What `work` returns, tried again when the connection does not come about or breaks."""
        for pause in (*self._pauses, None):
            try:
                return work()
            except httpx.TransportError as error:
                if pause is None:
                    raise self._unreachable(error) from error
                time.sleep(pause)
            except (httpx.TooManyRedirects, httpx.InvalidURL) as error:
                raise self._unreachable(error) from error
        raise AssertionError("the last round returned or raised")

    @contextmanager
    def _asked(self, path: str, **options: Any) -> Iterator[httpx.Response]:
        """An answer of the Hub whose status is a good one."""
        with self._http.stream("GET", f"{self._endpoint}{path}", **options) as answer:
            self._judge(answer)
            yield answer

    def _judge(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        name = f"{self._source.repo_id} at {self._source.revision[:12]}"
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise SourceForbidden(
                f"{self._host} does not show {name}: it does not exist, or needs the setting huggingface_token.",
                param="source.repo_id",
            )
        if answer.status_code == HTTPStatus.NOT_FOUND:
            raise SourceNotFound(f"{self._host} has no {name}.", param="source.revision")
        raise SourceUnreachable(f"{self._host} answers {answer.status_code} for {name}: try again later.")

    @property
    def _host(self) -> str:
        return httpx.URL(self._endpoint).host

    def _unreachable(self, error: Exception) -> SourceUnreachable:
        return SourceUnreachable(
            f"{self._host} cannot be reached from this worker ({type(error).__name__}). Fetch the repository where"
            " there is a network and register the folder (`modelyard models register FOLDER --name NAME`), put it into"
            " the store and import it from there, or set huggingface_endpoint to a mirror."
        )


def _rows(answer: httpx.Response) -> list[HubFile]:
    try:
        rows = answer.json()["siblings"]
        found = [HubFile(row["rfilename"], int(row["size"]), (row.get("lfs") or {}).get("sha256")) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceUnreachable("The Hub's answer is not what its API promises.") from error
    if len(found) > FILES:
        raise Unprocessable(f"The repository holds more than {FILES} files.", param="source.repo_id")
    return found


def _needed(files: list[HubFile]) -> list[HubFile]:
    """The files at the top, with one set of weights: repositories keep others (`original/`, `consolidated…`) beside."""
    top = [file for file in files if "/" not in file.path or file.path.startswith("additional_chat_templates/")]
    for file in top:
        check_path(file.path)
    names = {file.path for file in top}
    if ADAPTER_WEIGHTS in names and SINGLE not in names and INDEX not in names:
        return [file for file in top if not file.path.endswith(WEIGHTS) or file.path == ADAPTER_WEIGHTS]
    stem = "model-" if INDEX in names else SINGLE
    return [file for file in top if not file.path.endswith(WEIGHTS) or file.path.startswith(stem)]


def _check(file: HubFile, path: Path) -> None:
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        size = opened.tell()
    if size != file.bytes or (file.sha256 is not None and digest != file.sha256):
        raise SourceUnreachable(f"{file.path}: what came is not what the Hub promised ({size} of {file.bytes} bytes).")
