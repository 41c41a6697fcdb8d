"""API keys as text: `modelyard_{env}_{key_id}_{secret}_{crc}`.

`key_id` (12 characters) finds the row, `secret` (43 characters of 62: 256 bits) proves the right to use it,
`crc` (6 characters, CRC-32 of all before it) lets a scanner or a typo be told from a key without asking
anybody; the form is GitHub's (github.blog/2021-04-05-behind-githubs-new-authentication-token-formats).
"""

import re
import secrets
import string
import zlib
from dataclasses import dataclass, field

from shared.settings import Environment

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID_LENGTH, SECRET_LENGTH, CRC_LENGTH = 12, 43, 6
NAMES = {Environment.EMBEDDED: "local", Environment.PRODUCTION: "live", Environment.TEST: "test"}

_FORM = re.compile(
    rf"(modelyard_[a-z]{{1,8}}_([0-9A-Za-z]{{{ID_LENGTH}}})_([0-9A-Za-z]{{{SECRET_LENGTH}}}))_([0-9A-Za-z]{{{CRC_LENGTH}}})",
    re.ASCII,
)


@dataclass(frozen=True)
class Token:
    """A key, taken apart."""

    text: str = field(repr=False)
    key_id: str
    secret: str = field(repr=False)


def new(environment: Environment) -> Token:
    """A fresh key. Its text is shown once, and kept nowhere."""
    key_id, secret = _random(ID_LENGTH), _random(SECRET_LENGTH)
    body = f"modelyard_{NAMES[environment]}_{key_id}_{secret}"
    return Token(f"{body}_{_crc(body)}", key_id, secret)


def parse(text: str) -> Token | None:
    """The key that `text` spells; None when it is none, or mistyped."""
    match = _FORM.fullmatch(text)
    if match is None or _crc(match[1]) != match[4]:
        return None
    return Token(text, match[2], match[3])


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _crc(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), []
    for _ in range(CRC_LENGTH):
        value, digit = divmod(value, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
