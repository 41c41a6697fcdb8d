"""Examples of uploads for the OpenAPI document."""

from typing import Any

UPLOAD_ID = "upload_019b2f6e8a517c3e9d440f6f1f6b2a30"
PART_ID = "part_019b2f6e8a517c3e9d440f6f1f6b2a31"
SIZE = 157_286_400

NEW_UPLOAD = {"bytes": SIZE, "filename": "report.pdf", "mime_type": "application/pdf", "purpose": "document"}
COMPLETE = {"part_ids": [PART_ID], "md5": "9e107d9d372bb6826bd81d3542a419d6"}
PART_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["data"],
            "additionalProperties": False,
            "properties": {"data": {"type": "string", "contentMediaType": "application/octet-stream"}},
        }
    }
}

ANSWERS: dict[str, Any] = {
    "UploadOut": {
        "id": UPLOAD_ID,
        "object": "upload",
        "bytes": SIZE,
        "created_at": 1769860800,
        "expires_at": 1769864400,
        "filename": "report.pdf",
        "mime_type": "application/pdf",
        "purpose": "document",
        "status": "pending",
        "file": None,
    },
    "UploadPartOut": {
        "id": PART_ID,
        "object": "upload.part",
        "created_at": 1769860860,
        "upload_id": UPLOAD_ID,
        "bytes": 67_108_864,
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    },
}
