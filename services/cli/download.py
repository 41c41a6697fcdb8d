"""Bringing an artifact to a file: streamed, resumed where it broke off, and true to its digest."""

import hashlib
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from services.cli.client import PAUSES, CallError, Client, Unreachable
from services.cli.output import ExitCode
from shared.manifest import Manifest

Progress = Callable[[int], None]  # told how many bytes are there by now


class AlreadyThere(CallError):
    """A file of that name exists, with other contents."""

    code = "already_there"
    exit_code = ExitCode.REFUSED
    fix = "Give another --output, or --force to replace it."


class Corrupt(CallError):
    """What came is not what the artifact's digest says."""

    code = "corrupt"
    fix = "Try again; if it stays so, the store has lost or changed the blob."


def fetch(client: Client, artifact: dict[str, Any], target: Path, *, force: bool, progress: Progress) -> bool:
    """Bring an artifact (as `GET /v1/artifacts/{id}` shows it) to `target`, by way of `target.part`.

    Returns False when it was there already. A part that an earlier call left is gone on with.

    Raises:
        AlreadyThere: `target` exists with other contents, and `force` is not given.
        Corrupt: the bytes do not have the artifact's SHA-256.
    """
    if target.exists() and not force:
        if target.is_file() and _digest(target) == artifact["sha256"]:
            return False
        raise AlreadyThere(f"{target} exists, and is not this artifact.")
    part = target.with_name(target.name + ".part")
    resumed = part.exists()
    found = _complete(client, artifact, part, progress)
    if found != artifact["sha256"] and resumed:  # the part was of something else: once more, from the beginning
        part.unlink()
        found = _complete(client, artifact, part, progress)
    if found != artifact["sha256"]:
        part.unlink()
        raise Corrupt(f"The artifact should have SHA-256 {artifact['sha256']}, and has {found}.")
    part.replace(target)
    return True


def fetch_folder(client: Client, artifact: dict[str, Any], target: Path, *, force: bool, progress: Progress) -> bool:
    """Bring an artifact that is a folder to the folder `target`: each file as `fetch` does.

    Returns False when all of it was there already. Files of `target` that are no part of it stay.

    Raises:
        AlreadyThere: a file stands where a folder belongs; or as `fetch`, for one of its files.
        Corrupt: as `fetch`.
    """
    fresh, before = False, 0

    def told(there: int) -> None:
        progress(before + there)

    for entry in Manifest.of_json(artifact["files"]):  # no path of a manifest leaves its folder
        content = f"/v1/artifacts/{artifact['id']}/content?path={quote(entry.path, safe='')}"
        file = target / entry.path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise AlreadyThere(f"{error.filename} is a file; the artifact is a folder.") from error
        wanted = {"bytes": entry.bytes, "sha256": entry.sha256, "content": content}
        fresh |= fetch(client, wanted, file, force=force, progress=told)
        before += entry.bytes
        progress(before)
    return fresh


def size_of(artifact: dict[str, Any]) -> int:
    """Bytes of an artifact: of a folder, of all its files."""
    files = artifact.get("files")
    return int(artifact["bytes"]) if files is None else sum(int(file["bytes"]) for file in files)


def _complete(client: Client, artifact: dict[str, Any], part: Path, progress: Progress) -> str:
    """Fill `part`, going on where a broken transfer stopped, and return its SHA-256."""
    for pause in (*PAUSES, None):
        try:
            _append(client, artifact, part, progress)
            break
        except Unreachable:
            if pause is None:
                raise
            time.sleep(pause)
    return _digest(part)


def _append(client: Client, artifact: dict[str, Any], part: Path, progress: Progress) -> None:
    there = part.stat().st_size if part.exists() else 0
    if there == artifact["bytes"] and there:
        return
    path = artifact.get("content") or f"/v1/artifacts/{artifact['id']}/content"
    with client.download(path, start=there) as answer:
        if answer.status_code == HTTPStatus.PARTIAL_CONTENT:
            mode = "ab"
        else:  # the whole, or nothing from there on: what there is counts for nothing
            mode, there = "wb", 0
        with part.open(mode) as file:
            if answer.is_success:
                for chunk in answer.iter_raw():
                    there += file.write(chunk)
                    progress(there)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
