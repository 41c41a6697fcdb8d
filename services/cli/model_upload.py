"""A model's folder on its way to a gateway: looked through here first, uploaded file by file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import typer

from services.catalog.safety import checked
from services.catalog.tensors import UnsafeModel
from services.catalog.tree import Folder
from services.cli.client import CallError, Client
from services.cli.files_upload import Told, bar, forget
from services.cli.output import ExitCode
from services.files.service import FILE_BYTES, Purpose


class Unsafe(CallError):
    """The folder holds something that no yard registers."""

    code = "unsafe_model"
    exit_code = ExitCode.REFUSED
    fix = "Models are safetensors weights, JSON configuration and a tokenizer; nothing that runs."


class TooLargeToUpload(CallError):
    """A file is larger than an upload may be."""

    code = "body_too_large"
    exit_code = ExitCode.REFUSED
    fix = (
        "Put the folder below the setting models_root of the yard's hosts and register it with --in-place, or into the"
        " store and `modelyard models import s3://BUCKET/PREFIX`; or save it in shards of at most 512 MiB."
    )


@contextmanager
def uploaded(client: Client, folder: Path, *, keep: bool) -> Iterator[dict[str, str]]:
    """Upload a folder's files: path → file id. They are forgotten afterwards, unless a job still needs them (`keep`).

    Raises:
        Unsafe: the folder would be refused.
        TooLargeToUpload: a file is too large.
        Refused, Unreachable: as the gateway answers.
    """
    try:
        sizes = checked(Folder(folder)).files
    except UnsafeModel as error:
        raise Unsafe(error.message) from error
    large = next((path for path, size in sizes.items() if size > FILE_BYTES), None)
    if large is not None:
        raise TooLargeToUpload(f"{large} is larger than {FILE_BYTES >> 20} MiB, the most that an upload has.")
    sent: dict[str, str] = {}
    try:
        _upload(client, folder, sizes, sent)
    except BaseException:
        forget(client, sent.values())
        raise
    try:
        yield sent
    except typer.Exit:  # the job has ended; whoever stops waiting (Ctrl-C, a timeout) leaves it its files
        forget(client, sent.values())
        raise
    if not keep:
        forget(client, sent.values())


def _upload(client: Client, folder: Path, sizes: Mapping[str, int], sent: dict[str, str]) -> None:
    with bar(sum(sizes.values()), files=len(sizes)) as tell:
        for path in sizes:
            with (folder / path).open("rb") as file:
                told = cast("BinaryIO", Told(file, tell))
                sent[path] = client.upload(told, name=Path(path).name, purpose=Purpose.MODEL)["id"]
