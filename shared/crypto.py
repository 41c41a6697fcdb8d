"""Secrets at rest: one root key gives a pepper for API keys and a sealing key for what must come back.

The keys are derived with HKDF-SHA-256 (RFC 5869), so that neither use reveals the other's key. Sealing is
AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce; the owner and the name of a secret are its
associated data, so a sealed value copied into another tenant's row does not open.
"""

import base64
import binascii
import hmac
import secrets
from dataclasses import dataclass, field
from functools import cache
from typing import Self
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.settings import settings

ROOT_BYTES = 32
NONCE_BYTES = 12
FORMAT = b"\x01"  # first byte of a sealed value: lets a later format stand beside this one


class Unsealable(Exception):
    """A sealed value was changed, belongs to another owner, or was sealed under another root key."""


@dataclass(frozen=True)
class Keyring:
    """The two keys of this installation."""

    pepper: bytes = field(repr=False)
    sealing: bytes = field(repr=False)

    @classmethod
    def of_root(cls, root: str) -> Self:
        """The keys derived from `root`: 32 random bytes in base64, as `settings.secret_key` holds them.

        Raises:
            ValueError: `root` is not base64 of at least 32 bytes.
        """
        try:
            key = base64.b64decode(root, validate=True)
        except binascii.Error as error:
            raise ValueError("secret_key must be base64 of 32 random bytes") from error
        if len(key) < ROOT_BYTES:
            raise ValueError(f"secret_key must hold at least {ROOT_BYTES} random bytes, got {len(key)}")
        return cls(pepper=_derive(key, "api-keys"), sealing=_derive(key, "sealed-secrets"))

    def mac(self, message: bytes) -> bytes:
        """HMAC-SHA-256 of `message` under the pepper: 32 bytes. For random secrets, not for passwords."""
        return hmac.digest(self.pepper, message, "sha256")

    def seal(self, secret: bytes, *, tenant_id: UUID, name: str) -> bytes:
        """`secret`, encrypted for its owner and name: format byte, nonce, ciphertext and tag."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return FORMAT + nonce + AESGCM(self.sealing).encrypt(nonce, secret, _owner(tenant_id, name))

    def unseal(self, sealed: bytes, *, tenant_id: UUID, name: str) -> bytes:
        """The secret behind `seal`.

        Raises:
            Unsealable: the value, its owner, its name or the root key is not the one it was sealed with.
        """
        nonce, ciphertext = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        if not sealed.startswith(FORMAT) or len(nonce) < NONCE_BYTES:
            raise Unsealable("unknown format of a sealed value")
        try:
            return AESGCM(self.sealing).decrypt(nonce, ciphertext, _owner(tenant_id, name))
        except InvalidTag as error:
            raise Unsealable(f"the sealed {name} does not open") from error


@cache
def keyring() -> Keyring:
    """The keys of this process, derived at the first call."""
    return Keyring.of_root(settings().secret_key.get_secret_value())


def new_root() -> str:
    """A fresh root key in the form of `settings.secret_key`."""
    return base64.b64encode(secrets.token_bytes(ROOT_BYTES)).decode()


def _derive(root: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"modelyard {purpose}".encode()).derive(root)


def _owner(tenant_id: UUID, name: str) -> bytes:
    return tenant_id.bytes + name.encode()
