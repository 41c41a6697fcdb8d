"""What a worker and its reading process tell each other: a JSON object a line, both ways.

To the reader goes a `Request`. Back come {"format": name}, then for each page {"page": n, "text": …} or, when pictures
of pages are wanted, {"page": n, "image": PNG in base64}, then perhaps {"unread": [pages]}; or {"refused": {code,
title, detail}} at any point. Last of all {"exit": wait status, "peak_bytes": …, "cpu_s": …}.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """One document to read, and the bounds of reading it."""

    path: str
    filename: str  #: its ending tells text formats apart
    pages: int
    text_bytes: int
    cpu_s: int
    memory_bytes: int
    images: bool  #: send pages without text as pictures
