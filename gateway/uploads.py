"""One file and its fields out of a multipart body, as it comes: nothing of it is held in memory at once.

The file waits in memory up to 1 MiB, else in a nameless file on this host.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Self

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from gateway.errors import UnsupportedMediaType
from services.files.uploads import PART_BYTES
from shared.errors import BadRequest, FieldError, InvalidField, TooLarge, ValidationFailed

FIELDS = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})
FIELD_BYTES = 4096
CHUNK_BYTES = 256 * 1024
MULTIPART = "multipart/form-data"


class InvalidForm(BadRequest):
    """The body is not a well-formed form."""

    code = "invalid_form"


@dataclass(frozen=True)
class Upload:
    """A file to store, as `POST /v1/files` takes it."""

    filename: str
    purpose: str
    expires_in_s: int | None
    _file: UploadFile = field(repr=False)

    @classmethod
    def of(cls, form: FormData) -> Self:
        """Check the form's fields.

        Raises:
            ValidationFailed: a field is missing, unknown or given twice.
            InvalidField: `expires_after` is not what OpenAI has.
        """
        _refuse_unknown(form, FIELDS | {"file"})
        file, purpose = _file(form, "file"), form.get("purpose")
        if not isinstance(purpose, str):
            raise ValidationFailed(errors=(FieldError("purpose", "missing", "a purpose is needed"),))
        return cls(file.filename or "", purpose, _expiry(form), file)

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes. In a thread."""
        return _chunks(self._file)


@dataclass(frozen=True)
class Part:
    """A part of an upload, as `POST /v1/uploads/{upload_id}/parts` takes it."""

    _data: UploadFile = field(repr=False)

    @classmethod
    def of(cls, form: FormData) -> Self:
        """Check the form's one field.

        Raises:
            ValidationFailed: it is missing, given twice, or another is there.
            InvalidField: it is empty.
            TooLarge: it has more bytes than a part may have.
        """
        _refuse_unknown(form, {"data"})
        data = _file(form, "data")
        if not data.size:
            raise InvalidField("A part has at least one byte.", param="data")
        if data.size > PART_BYTES:
            raise TooLarge(f"A part has at most {PART_BYTES} bytes.", param="data")
        return cls(data)

    def chunks(self) -> Iterator[bytes]:
        """The part's bytes. In a thread."""
        return _chunks(self._data)


async def receive(request: Request) -> FormData:
    """Read a form to its end; close it when done.

    Raises:
        UnsupportedMediaType: the body is no form.
        InvalidForm: it is malformed, or has more files or fields than we ask for.
        TooLarge: more bytes came than the route takes.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MULTIPART:
        raise UnsupportedMediaType(f"The body must be {MULTIPART}.", param="Content-Type")
    try:
        parser = MultiPartParser(
            request.headers, request.stream(), max_files=1, max_fields=len(FIELDS), max_part_size=FIELD_BYTES
        )
        return await parser.parse()
    except MultiPartException as error:
        raise InvalidForm(error.message) from error


def _file(form: FormData, name: str) -> UploadFile:
    file = form.get(name)
    if not isinstance(file, UploadFile):
        raise ValidationFailed(errors=(FieldError(name, "missing", "a file is needed"),))
    return file


def _chunks(file: UploadFile) -> Iterator[bytes]:
    file.file.seek(0)
    while chunk := file.file.read(CHUNK_BYTES):
        yield chunk


def _refuse_unknown(form: FormData, known: Collection[str]) -> None:
    names = [name for name, _ in form.multi_items()]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValidationFailed(
            errors=tuple(FieldError(name[:64], "unknown_parameter", "is not known here") for name in unknown)
        )
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    if twice:
        raise ValidationFailed(errors=tuple(FieldError(name, "duplicate", "is given twice") for name in twice))


def _expiry(form: FormData) -> int | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidField("The only anchor is created_at.", param="expires_after[anchor]")
    if not isinstance(seconds, str) or not seconds.isascii() or not seconds.isdigit() or len(seconds) > 9:
        raise InvalidField("A number of seconds is needed.", param="expires_after[seconds]")
    return int(seconds)
