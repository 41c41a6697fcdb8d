"""The request and an answer of batches for the OpenAPI document."""

from typing import Any

from gateway.schemas.batches import BatchRequest

BATCH_ID = "batch_019b2f6e8a517c3e9d440f6f1f6b2a30"
INPUT_ID, OUTPUT_ID = "file-019b2f6e8a517c3e9d440f6f1f6b2a10", "file-019b2f6e8a517c3e9d440f6f1f6b2a31"

CREATE_REQUESTS: dict[str, Any] = {
    "chats": {
        "summary": "A file of chats, within a day",
        "value": {
            "input_file_id": INPUT_ID,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"project": "docs"},
        },
    },
    "embeddings": {
        "summary": "A file of texts to embed, within the hour; the vectors are kept for a day",
        "value": {
            "input_file_id": INPUT_ID,
            "endpoint": "/v1/embeddings",
            "completion_window": "1h",
            "output_expires_after": {"anchor": "created_at", "seconds": 86400},
        },
    },
}


def _schema() -> dict[str, Any]:
    """The request's schema in one piece: the route reads the body by itself, to answer 400 as OpenAI does."""
    made = BatchRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    made["properties"]["output_expires_after"] = {"anyOf": [made.pop("$defs")["OutputExpiry"], {"type": "null"}]}
    return made


CREATE: dict[str, Any] = {
    "requestBody": {"content": {"application/json": {"schema": _schema(), "examples": CREATE_REQUESTS}}},
}

BATCH: dict[str, Any] = {
    "id": BATCH_ID,
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "model": "yard-tiny",
    "errors": None,
    "input_file_id": INPUT_ID,
    "completion_window": "24h",
    "status": "completed",
    "output_file_id": OUTPUT_ID,
    "error_file_id": None,
    "created_at": 1769860800,
    "in_progress_at": 1769860801,
    "expires_at": 1769947200,
    "finalizing_at": 1769860841,
    "completed_at": 1769860842,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 2000, "completed": 2000, "failed": 0},
    "usage": {
        "input_tokens": 61204,
        "input_tokens_details": {"cached_tokens": 20480},
        "output_tokens": 32811,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 94015,
    },
    "metadata": {"project": "docs"},
    "job_id": "019b2f6e-8a51-7c3e-9d44-0f6f1f6b2a30",
    "progress": {"done": 2000, "total": 2000, "unit": "lines", "rate": 48.78, "eta_s": None},
    "cost": 0.0208,
    "gpu_seconds": 40.9,
    "retry_of": None,
    "webhook": None,
}

#: by the name of a listed resource's schema
ROWS: dict[str, dict[str, Any]] = {"BatchOut": BATCH}
