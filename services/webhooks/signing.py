"""Signatures of Standard Webhooks 1.0.0 (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md).

`webhook-signature: v1,<base64 of HMAC-SHA-256 of "{id}.{timestamp}.{body}">`, keyed with the bytes behind
`whsec_`.
"""

import base64
import binascii
import hmac
import secrets

PREFIX = "whsec_"
KEY_BYTES = range(24, 65)  # the specification's bounds
NEW_KEY_BYTES = 32


def new_secret() -> str:
    """A fresh secret, as its owner keeps it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(NEW_KEY_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """The key that a secret spells.

    Raises:
        ValueError: it is not `whsec_` and base64 of 24–64 bytes.
    """
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if not secret.startswith(PREFIX) or len(key) not in KEY_BYTES:
        raise ValueError(f"not {PREFIX} and base64 of {KEY_BYTES.start}–{KEY_BYTES.stop - 1} bytes")
    return key


def headers(key: bytes, *, id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt. `id` stays the same for every attempt, `timestamp` (Unix seconds) does not."""
    digest = hmac.digest(key, b".".join((id.encode(), str(timestamp).encode(), body)), "sha256")
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
