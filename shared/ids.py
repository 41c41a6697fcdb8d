"""Identifiers: UUIDv7 everywhere, so that ids sort by birth and indexes grow at one end (RFC 9562 §5.7)."""

from uuid import UUID

import uuid_utils


def new_id() -> UUID:
    """A fresh UUIDv7: 48 bits of Unix milliseconds, then random bits."""
    return UUID(int=uuid_utils.uuid7().int)


def prefixed(prefix: str, value: UUID) -> str:
    """The public spelling where a protocol wants one: ``file-0199…``, ``evt_0199…``."""
    return f"{prefix}{value.hex}"


def parse(text: str) -> UUID | None:
    """The id that a text spells, or None when it spells none."""
    return parse_prefixed("", text)


def parse_prefixed(prefix: str, text: str) -> UUID | None:
    """The id behind a public spelling, or None when the text is not one (callers answer 404)."""
    try:
        return UUID(hex=text.removeprefix(prefix)) if text.startswith(prefix) else None
    except ValueError:
        return None
