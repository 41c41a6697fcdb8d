"""Document sets in the words of a terminal."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.cli.following_sets import DOCUMENT_SET, cause_of_end, summary
from services.cli.job_view import age, clip, of_unix, show_fields
from services.cli.output import table

WIDTH = 60  # characters of a result in a table


def show_set(found: Mapping[str, Any]) -> None:
    """One set, field by field; empty fields are left out."""
    usage, pack = found["usage"], f" with pack {found['pack']}" if found["pack"] else ""
    spent = f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens, {usage['gpu_seconds']:.2f} GPU-seconds"
    fields = {
        "id": found["id"],
        "job": found["job_id"],
        "status": summary(DOCUMENT_SET, found),
        "because": cause_of_end(found),
        "model": found["model"],
        "operation": f"{found['operation']['type']}{pack}",
        "pages": found["pages"] or None,
        "usage": spent if usage["total_tokens"] else None,
        "created": of_unix(found["created_at"]),
        "finished": of_unix(found["finished_at"]),
        "deadline": of_unix(found["expires_at"]),
        "metadata": " ".join(f"{key}={value}" for key, value in found["metadata"].items()),
        "artifacts": " ".join(each["name"] for each in found["artifacts"]),
    }
    show_fields(fields.items())


def show_sets(sets: Sequence[Mapping[str, Any]]) -> None:
    """Sets as a table."""
    rows = [
        (
            each["id"], summary(DOCUMENT_SET, each), each["model"], each["operation"]["type"], each["pages"],
            age(str(of_unix(each["created_at"]))),
        )
        for each in sets
    ]  # fmt: skip
    table(("id", "status", "model", "operation", "pages", "age"), rows)


def show_records(records: Sequence[Mapping[str, Any]]) -> None:
    """What became of each document."""
    rows = [(each["filename"], each["pages"], each["status"], flags(each), _result(each)) for each in records]
    table(("document", "pages", "status", "flags", "result"), rows)


def show_packs(packs: Sequence[Mapping[str, Any]]) -> None:
    """Domain packs as a table."""
    rows = [(each["id"], each["terms"], each["rules"], clip(each["description"], width=WIDTH)) for each in packs]
    table(("name", "terms", "rules", "description"), rows)


def flags(record: Mapping[str, Any]) -> str:
    """What is wrong with a document and its values: `quote_not_found ×3, violates:balance`."""
    counted = dict.fromkeys(record["flags"], 1)
    for value in record["values"]:
        broken = [value["check"]] if value["check"].startswith("violates:") else []
        for flag in (*value["flags"], *broken):
            counted[flag] = counted.get(flag, 0) + 1
    return ", ".join(f"{flag} ×{count}" if count > 1 else flag for flag, count in counted.items())


def _result(record: Mapping[str, Any]) -> str:
    if error := record["error"]:
        return clip(f"{error['code']}: {error['detail'] or error['title']}", width=WIDTH)
    result = record["result"]
    return clip(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False), width=WIDTH)
