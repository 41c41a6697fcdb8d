"""The `batch` kind: OpenAI's batches. A line of the input is a request, a line of the output its response."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from shared.contracts.jobs import Contract, Text

LINE_BYTES = 1024**2
LINES = 50_000
FILE_BYTES = 200 * 1024**2
EMBEDDING_INPUTS = 50_000  #: texts of a whole batch of embeddings
CUSTOM_ID = 512  #: characters
DEPTH = 32  #: levels of a line's JSON
MODELS = 100  #: that the lines of a batch name
PROBLEMS = 100  #: of a file that cannot be used, told at most
EXPIRY_S = (3600, 2_592_000)  #: of a file: least and most, one hour to thirty days

#: code of a line that nobody ran before its batch ended
EXPIRED = "batch_expired"
CANCELLED = "batch_cancelled"

_UNKNOWN_MODEL, _ITS_BODY = "unknown_model", "body"

Window = Literal["1h", "4h", "24h", "7d"]
WINDOWS: dict[str, int] = {"1h": 3600, "4h": 4 * 3600, "24h": 86_400, "7d": 7 * 86_400}  #: seconds

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]


class BatchSpec(Contract):
    """A batch as a job: `POST /v1/batches` makes one."""

    input_file_id: Text = Field(description="id of an uploaded JSONL file of purpose batch")
    endpoint: Endpoint
    completion_window: Window = Field("24h", description="lines that have not been run by then are expired")
    output_expires_s: int | None = Field(
        None, ge=EXPIRY_S[0], le=EXPIRY_S[1], strict=True, description="of the output and the error file; null: 30 days"
    )


class BatchStatus(StrEnum):
    """OpenAI's states, seen through the job's."""

    VALIDATING = "validating"  #: queued: its file is being read
    FAILED = "failed"  #: the file cannot be used; `errors` says where
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"  #: every line has its result; the files are being written
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class Problem(Contract):
    """One reason why a batch's file cannot be used. `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchLineUsage(Contract):
    """Tokens of one line; of lines answered together with an equal one, or from the cache, none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  #: of the prompt, found in the engine's KV cache


def unknown_line(model: str, body: dict[str, Any]) -> dict[str, Any]:
    """What `job_items.input` holds of a line whose model nobody knew when the file was read, instead of its body."""
    return {_UNKNOWN_MODEL: model, _ITS_BODY: body}


def unknown_in(stored: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The model's name and the body of such a line; None when what is stored is a body."""
    return (stored[_UNKNOWN_MODEL], stored[_ITS_BODY]) if stored.keys() == {_UNKNOWN_MODEL, _ITS_BODY} else None
