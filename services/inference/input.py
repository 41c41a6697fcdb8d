"""The input file of an inference job: JSONL, a prompt or a chat a line, read without holding it in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.contracts.inference import INLINE_LINES, LineInput

LINE_BYTES = 1024**2
LINES = INLINE_LINES


class BadInput(Exception):
    """A line of the file cannot be used. `code` is what the job's error will say."""

    def __init__(self, code: str, reason: str, *, line: int | None = None) -> None:
        self.code = code
        self.detail = reason if line is None else f"line {line}: {reason}"
        super().__init__(self.detail)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file as `job_items.input` keeps them. Blank lines are skipped, but counted.

    Raises:
        BadInput: a line is not JSON, not a prompt or chat, or too long; or there are none, or too many.
    """
    found = 0
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LINE_BYTES + 1):
            number += 1
            if len(raw) > LINE_BYTES and not raw.endswith(b"\n"):
                raise BadInput("line_too_long", f"more than {LINE_BYTES} bytes", line=number)
            if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                raise BadInput(
                    "byte_order_mark", "the file begins with a byte order mark; save it as plain UTF-8", line=1
                )
            if not raw.strip():
                continue
            found += 1
            if found > LINES:
                raise BadInput("too_many_lines", f"more than {LINES} lines")
            yield _parsed(raw, number)
    if not found:
        raise BadInput("empty_file", "the file holds no lines")


def _parsed(raw: bytes, number: int) -> dict[str, Any]:
    try:
        return LineInput.model_validate_json(raw).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        invalid = first["type"] == "json_invalid"
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise BadInput("invalid_json" if invalid else "invalid_line", reason, line=number) from error
