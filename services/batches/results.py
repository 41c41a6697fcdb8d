"""The output and the error file of a batch: a line for each line of the input, in its order, as OpenAI writes them.

Ids and times are made of the input file and the line, so the same file gives the same bytes, whatever happened on the
way. A line that was answered with status 200 is in the output file, every other one in the error file.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from sqlalchemy import Row

from services.batches import repository
from services.batches.paging import pages
from shared.contracts.batches import CANCELLED, EXPIRED
from shared.contracts.jobs import State
from shared.db.models import Job
from shared.db.session import Database

OUTPUT, ERRORS = "output.jsonl", "errors.jsonl"
MEDIA_TYPE = "application/jsonl"

#: beginnings of the ids of answers, by what they are
_ANSWER_IDS = {"chat.completion": "chatcmpl-", "text_completion": "cmpl-"}
_UNRUN = {
    State.EXPIRED: (EXPIRED, "The line was not run within the batch's completion window."),
    State.CANCELLED: (CANCELLED, "The line was not run before the batch was cancelled."),
}


@dataclass(frozen=True)
class Input:
    """What ids and times are made of: the digest and the birthday (Unix seconds) of the input file."""

    sha256: str
    created: int


@dataclass
class Written:
    """What became of the lines."""

    completed: int = 0
    failed: int = 0
    unrun: int = 0  #: of the failed ones: nobody ran them before the batch ended
    cached_tokens: int = 0


@dataclass(frozen=True)
class Spelling:
    """Lines of one batch as the files have them."""

    source: Input

    def answered(self, number: int, custom_id: str, body: Mapping[str, Any]) -> bytes:
        """A line with its answer."""
        prefix = _ANSWER_IDS.get(body.get("object", ""))
        if prefix is not None:
            head = {"id": self._id(prefix, number), "object": body["object"], "created": self.source.created}
            body = {**head, **body}
        return self._line(number, custom_id, response=self._response(number, 200, body))

    def failed(self, number: int, custom_id: str, error: Mapping[str, Any]) -> bytes:
        """A line that was refused, with the answer that says so, or one that could not be run."""
        told = {"code": error["code"], "message": error.get("message") or error.get("title", "")}
        status = error.get("status_code")
        if status is None:
            return self._line(number, custom_id, error=told)
        body = error.get("body") or {"error": {**told, "type": "invalid_request_error", "param": None}}
        return self._line(number, custom_id, response=self._response(number, status, body))

    def _response(self, number: int, status: int, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"status_code": status, "request_id": self._id("req_", number), "body": body}

    def _line(
        self,
        number: int,
        custom_id: str,
        *,
        response: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> bytes:
        made = {
            "id": self._id("batch_req_", number),
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }
        return orjson.dumps(made, option=orjson.OPT_APPEND_NEWLINE)

    def _id(self, prefix: str, number: int) -> str:
        name = f"{prefix}{self.source.sha256}:{number}"
        return prefix + hashlib.sha256(name.encode()).hexdigest()[:32]


def write(database: Database, parent: Job, *, source: Input, folder: Path) -> Written:
    """Write both files of a batch into `folder`, a page of lines at a time; no transaction is open between two of them.

    Raises:
        DatabaseUnavailable: the lines cannot be read.
    """
    with database.transaction() as session:
        parts = repository.parts(session, parent.tenant_id, parent.id)
    spelling, done = Spelling(source), Written()
    with (folder / OUTPUT).open("wb") as output, (folder / ERRORS).open("wb") as errors:
        total = parent.progress_total or 0
        for rows in pages(database, parts, total=total, sizes=repository.sizes, lines=repository.lines):
            for row in rows:
                _write(row, spelling, done, output=output, errors=errors)
    return done


def _write(row: Row[Any], spelling: Spelling, done: Written, *, output: BinaryIO, errors: BinaryIO) -> None:
    if row.status == "done":
        done.completed += 1
        done.cached_tokens += row.output["usage"].get("cached_tokens", 0)
        output.write(spelling.answered(row.line_no, row.custom_id, row.output["body"]))
        return
    done.failed += 1
    done.unrun += row.status == "pending"
    error = _unrun(row) if row.status == "pending" else row.error
    errors.write(spelling.failed(row.line_no, row.custom_id, error))


def _unrun(row: Row[Any]) -> dict[str, Any]:
    """Why nobody ran a line: its batch's time was over, or its part of the batch failed."""
    if row.state in _UNRUN:
        code, message = _UNRUN[State(row.state)]
        return {"code": code, "message": message}
    error = row.job_error or {}
    message = ": ".join(filter(None, (error.get("title"), error.get("detail"))))
    return {"code": error.get("code", "not_run"), "message": message or "The line was not run."}
