"""The secrets of one yard: made once, kept in secrets/credentials.json (0600), never in argv or a log."""

import base64
import json
import secrets
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from shared.embedded.errors import YardError
from shared.embedded.layout import Layout, write_private


def _token() -> SecretStr:
    return SecretStr(secrets.token_hex(24))  # hex: safe in URLs, in Redis' configuration and in env files


def _secret_key() -> SecretStr:
    return SecretStr(base64.b64encode(secrets.token_bytes(32)).decode())


class Credentials(BaseModel):
    """Passwords of the stores, and the key that peppers API keys and encrypts webhook secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    postgres_password: SecretStr = Field(default_factory=_token)
    broker_password: SecretStr = Field(default_factory=_token)
    cache_password: SecretStr = Field(default_factory=_token)
    s3_access_key: str = Field(default_factory=lambda: f"modelyard{secrets.token_hex(6)}")
    s3_secret_key: SecretStr = Field(default_factory=_token)
    secret_key: SecretStr = Field(default_factory=_secret_key)

    @classmethod
    def load(cls, place: Layout) -> Self:
        """The yard's credentials, made at the first start.

        Raises YardError when the database exists but the secrets do not.
        """
        path = place.secrets / "credentials.json"
        if path.exists():
            return cls.model_validate_json(path.read_bytes())
        if place.postgres.exists():
            raise YardError(
                f"{path} is missing, and the database in {place.postgres} cannot be opened without it.",
                fix="Restore it from a backup, or start a new yard in another folder.",
            )
        fresh = cls()
        write_private(path, fresh._revealed())
        return fresh

    def _revealed(self) -> str:
        shown = {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in self}
        return json.dumps(shown, indent=2)
