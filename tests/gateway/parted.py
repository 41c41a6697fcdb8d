"""What tests of uploads share: beginning, sending and completing one."""

import hashlib
from typing import Any

import httpx

MIB = 1024**2
LINES = b"".join(b'{"n": %d}\n' % number for number in range(1000))


def begin(client: httpx.Client, size: int = len(LINES), **fields: Any) -> str:
    """The id of a new upload."""
    body = {"bytes": size, "filename": "lines.jsonl", "mime_type": "text/plain", "purpose": "user_data", **fields}
    answer = client.post("/v1/uploads", json=body)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert (made["object"], made["status"], made["file"]) == ("upload", "pending", None)
    named: str = made["id"]
    return named


def send(client: httpx.Client, upload: str, data: bytes) -> httpx.Response:
    return client.post(f"/v1/uploads/{upload}/parts", files={"data": ("part", data)})


def part(client: httpx.Client, upload: str, data: bytes) -> str:
    """The id of a part that was sent."""
    answer = send(client, upload, data)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert (made["object"], made["upload_id"], made["bytes"]) == ("upload.part", upload, len(data))
    named: str = made["id"]
    return named


def complete(client: httpx.Client, upload: str, parts: list[str], **fields: Any) -> httpx.Response:
    return client.post(f"/v1/uploads/{upload}/complete", json={"part_ids": parts, **fields})


def content(client: httpx.Client, completed: httpx.Response) -> bytes:
    """What an upload has become."""
    assert completed.status_code == 200, completed.text
    upload = completed.json()
    assert upload["status"] == "completed"
    data = client.get(f"/v1/files/{upload['file']['id']}/content").content
    assert upload["file"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert upload["file"]["bytes"] == upload["bytes"] == len(data)
    return data


def halves(client: httpx.Client, upload: str, data: bytes = LINES) -> list[str]:
    middle = len(data) // 3
    return [part(client, upload, data[:middle]), part(client, upload, data[middle:])]
