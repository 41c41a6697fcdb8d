"""Batches in the words of a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.cli.following_sets import BATCH, cause_of_end, summary
from services.cli.job_view import age, of_unix, show_fields
from services.cli.output import table


def show_batch(batch: Mapping[str, Any]) -> None:
    """One batch, field by field; empty fields are left out."""
    usage = batch["usage"] or {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    fields = {
        "id": batch["id"],
        "job": batch.get("job_id"),
        "status": summary(BATCH, batch),
        "because": cause_of_end(batch),
        "endpoint": batch["endpoint"],
        "model": batch["model"],
        "window": batch["completion_window"],
        "input": batch["input_file_id"],
        "output": batch["output_file_id"],
        "errors": batch["error_file_id"],
        "usage": f"{usage['input_tokens']} + {usage['output_tokens']} tokens" if usage["total_tokens"] else None,
        "created": of_unix(batch["created_at"]),
        "expires": of_unix(batch["expires_at"]),
        "metadata": " ".join(f"{key}={value}" for key, value in (batch["metadata"] or {}).items()),
    }
    show_fields(fields.items())


def show_batches(batches: Sequence[Mapping[str, Any]]) -> None:
    """Batches as a table."""
    rows = [
        (each["id"], summary(BATCH, each), each["model"], each["endpoint"], each["completion_window"], _age(each))
        for each in batches
    ]
    table(("id", "status", "model", "endpoint", "window", "age"), rows)


def _age(batch: Mapping[str, Any]) -> str:
    return age(str(of_unix(batch["created_at"])))
