"""The input file of a batch: JSONL, a request a line, read without holding it in memory.

Every *envelope* is checked here (`custom_id`, `method`, `url`, and that `body` is one): a bad one makes the file
unusable. What a body asks for is checked when its line is run, and a bad one is that line's error alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from services.batches.lines import Flaw, parsed
from services.batches.order import Index
from services.batches.seen import Seen
from shared.contracts.batches import (
    CUSTOM_ID,
    EMBEDDING_INPUTS,
    FILE_BYTES,
    LINE_BYTES,
    LINES,
    MODELS,
    PROBLEMS,
    Endpoint,
    Problem,
)
from shared.contracts.openai import prompts_of

EMBEDDINGS: Endpoint = "/v1/embeddings"
_ENVELOPE = ("custom_id", "method", "url", "body")


class BadFile(Exception):
    """The file cannot be used. `problems` are the first of its flaws, in the order of its lines."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__(problems[0].message)


@dataclass(frozen=True)
class Request:
    """One line, as a child job keeps it."""

    custom_id: str
    body: dict[str, Any]
    model: int  #: the place of its model among those that the file names


@dataclass(frozen=True)
class Lines:
    """A file whose envelopes are all good: where each line is and what it is ordered by, not what it says."""

    path: Path
    index: Index
    models: dict[str | None, int]  #: as the bodies name them → the first line that does; None: it names none

    def requests(self, numbers: Iterable[int]) -> Iterator[Request]:
        """These lines, read again."""
        with self.path.open("rb") as file:
            for number in numbers:
                file.seek(self.index.offsets[number])
                envelope = orjson.loads(file.read(self.index.sizes[number]))
                yield Request(envelope["custom_id"], envelope["body"], self.index.models[number])


def read(path: Path, *, endpoint: str) -> Lines:
    """Check a file. Blank lines are skipped, but counted in the numbers that problems tell.

    Raises:
        BadFile: a line is no request of the batch's endpoint, or there are none, or too many.
    """
    size = path.stat().st_size
    if size > FILE_BYTES:
        raise BadFile((Problem(code="file_too_large", message=f"The file is larger than {FILE_BYTES} bytes."),))
    reader = _Reader(endpoint)
    with path.open("rb") as file:
        reader.read(file)
    if reader.problems:
        raise BadFile(tuple(reader.problems))
    if not reader.index:
        raise BadFile((Problem(code="empty_file", message="The file holds no lines."),))
    return Lines(path, reader.index, reader.models)


class _Reader:
    """What is known of a file when it is read up to some line."""

    def __init__(self, endpoint: str) -> None:
        self.index = Index()
        self.models: dict[str | None, int] = {}
        self.problems: list[Problem] = []
        self._endpoint = endpoint
        self._ids = Seen()
        self._inputs = 0

    def read(self, file: BinaryIO) -> None:
        number = offset = found = 0
        while len(self.problems) < PROBLEMS and (raw := file.readline(LINE_BYTES + 1)):
            number += 1
            try:
                if len(raw) > LINE_BYTES and not raw.endswith(b"\n"):
                    _skip(file)
                    raise Flaw("line_too_long", f"The line is longer than {LINE_BYTES} bytes.")
                if raw.strip():
                    found += 1
                    if found > LINES:
                        raise Flaw("too_many_lines", f"The file holds more than {LINES} lines.")
                    self._take(raw, offset=offset, line=number)
            except Flaw as flaw:
                self.problems.append(Problem(code=flaw.code, message=flaw.message, line=number, param=flaw.param))
                if found > LINES:
                    return
            offset = file.tell()

    def _take(self, raw: bytes, *, offset: int, line: int) -> None:
        envelope = parsed(raw, first=line == 1)
        self._check(envelope)
        body: dict[str, Any] = envelope["body"]
        self._count_inputs(body)
        name = body.get("model")
        model = name if isinstance(name, str) and name else None
        if model not in self.models and len(self.models) == MODELS:
            raise Flaw("too_many_models", f"The batch names more than {MODELS} models.", "body.model")
        self.models.setdefault(model, line)
        place = list(self.models).index(model)
        self.index.add(body, offset=offset, size=len(raw), model=place)

    def _check(self, envelope: dict[str, Any]) -> None:
        for unknown in envelope.keys() - set(_ENVELOPE):
            named = unknown if unknown.isascii() and unknown.isidentifier() and len(unknown) <= 64 else None
            raise Flaw("unknown_parameter", f"A line has {', '.join(_ENVELOPE)} and nothing else.", named)
        for name in _ENVELOPE:
            if name not in envelope:
                raise Flaw("missing_required_parameter", f"The line has no {name}.", name)
        self._check_id(envelope["custom_id"])
        if envelope["method"] != "POST":
            raise Flaw("invalid_method", "method must be POST.", "method")
        if envelope["url"] != self._endpoint:
            raise Flaw("invalid_url", f"url must be the batch's endpoint, {self._endpoint}.", "url")
        if not isinstance(envelope["body"], dict):
            raise Flaw("invalid_body", "body must be an object.", "body")
        if envelope["body"].get("stream") not in (None, False):
            raise Flaw("unsupported_parameter", "The lines of a batch cannot be streamed.", "body.stream")

    def _check_id(self, custom_id: object) -> None:
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= CUSTOM_ID:
            raise Flaw("invalid_custom_id", f"custom_id must be a text of 1–{CUSTOM_ID} characters.", "custom_id")
        if not self._ids.add(custom_id):
            raise Flaw("duplicate_custom_id", "An earlier line has the same custom_id.", "custom_id")

    def _count_inputs(self, body: dict[str, Any]) -> None:
        if self._endpoint != EMBEDDINGS:
            return
        given = body.get("input")
        self._inputs += len(prompts_of(given)) if isinstance(given, str | list) else 1
        if self._inputs > EMBEDDING_INPUTS:
            self._inputs = 0  # told once for each time that it is exceeded, not for every line behind it
            raise Flaw("too_many_inputs", f"The batch holds more than {EMBEDDING_INPUTS} inputs.", "body.input")


def _skip(file: BinaryIO) -> None:
    """Read on to the end of a line."""
    while (rest := file.readline(LINE_BYTES)) and not rest.endswith(b"\n"):
        pass
