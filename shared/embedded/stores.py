"""The four stores of one yard as rows of its table, and the settings that point at them."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.embedded import postgres, redis, store
from shared.embedded.credentials import Credentials
from shared.embedded.layout import Layout
from shared.embedded.process import Role

PORTS = ("postgres", "broker", "cache", "store")


@dataclass(frozen=True)
class Stores:
    """Where the stores of one yard listen, and with which credentials."""

    place: Layout
    credentials: Credentials
    ports: Mapping[str, int]
    bucket: str = "modelyard"

    def roles(self, *, env: Mapping[str, str], fsync: bool = True) -> list[Role]:
        """The rows; PostgreSQL last, because its first start is slow. Raises MissingBinary, Unconfinable."""
        place, credentials, ports = self.place, self.credentials, self.ports
        return [
            store.role(place, credentials, port=ports["store"], bucket=self.bucket, env=env),
            redis.broker(place, credentials, port=ports["broker"], env=env),
            redis.cache(place, credentials, port=ports["cache"], env=env),
            postgres.role(place, credentials, port=ports["postgres"], env=env, fsync=fsync),
        ]

    def settings(self) -> dict[str, str]:
        """Setting name → value, secrets in clear: for the env file and for tests."""
        credentials, ports = self.credentials, self.ports
        return {
            "database_url": postgres.url(credentials, port=ports["postgres"]),
            "broker_url": redis.url(credentials.broker_password, port=ports["broker"]),
            "cache_url": redis.url(credentials.cache_password, port=ports["cache"]),
            "s3_endpoint": f"127.0.0.1:{ports['store']}",
            "s3_access_key": credentials.s3_access_key,
            "s3_secret_key": credentials.s3_secret_key.get_secret_value(),
            "s3_bucket": self.bucket,
            "secret_key": credentials.secret_key.get_secret_value(),
        }
