"""`/v1/cache`: a tenant's own figures, and purging."""

from uuid import UUID

import httpx
import pytest

from services.responses import service
from services.responses.service import Limits
from services.responses.types import Key
from shared.cache import Cache
from tests.gateway.conftest import Gateway
from tests.gateway.served import MODEL, refused, register
from tests.services.responses import answers
from tests.support.stores import RunningStores

LIMITS = Limits(entry_bytes=2**20, ttl_s=60)
DIGEST, OTHER = "ab" * 32, "ef" * 32


@pytest.fixture
def tenant(gateway: Gateway) -> UUID:
    made = gateway.tenant()
    register(gateway, made, digest=DIGEST)
    return made


@pytest.fixture
def client(gateway: Gateway, tenant: UUID):
    with gateway.caller(tenant=tenant) as opened:
        yield opened


@pytest.fixture
def cache(stores: RunningStores):
    opened = Cache(stores.cache_url, quick_s=5)
    yield opened
    opened.close()


def put(cache: Cache, tenant: UUID, digest: str) -> Key:
    """An answer of a model, as a call leaves it."""
    key = Key(tenant, digest, None, f"request of {digest}")
    looked = service.look(cache, key, token="t")
    assert looked is not None
    service.put(cache, {key: answers.chat("Hi")}, stamp=looked.stamp, limits=LIMITS)
    return key


class TestFigures:
    def test_begin_at_nothing(self, client: httpx.Client):
        told = client.get("/v1/cache").json()
        assert (told["hits"], told["misses"], told["hit_rate"], told["stored_bytes"]) == (0, 0, None, 0)
        assert (told["enabled"], told["ttl_s"], told["entry_bytes"]) == (True, 86_400, 2**20)

    def test_are_the_callers_own(self, gateway: Gateway, client: httpx.Client, cache: Cache, tenant: UUID):
        key = put(cache, tenant, DIGEST)
        service.look(cache, key, token="t")
        told = client.get("/v1/cache").json()
        assert (told["hits"], told["misses"], told["hit_rate"], told["stored"]) == (1, 1, 0.5, 1)
        with gateway.caller() as other:
            assert other.get("/v1/cache").json()["hits"] == 0


class TestPurge:
    def test_of_everything(self, client: httpx.Client, cache: Cache, tenant: UUID):
        key = put(cache, tenant, DIGEST)
        assert client.delete("/v1/cache").json() == {"object": "cache", "purged": True, "model": None}
        assert service.look_many(cache, [key]).found == {}
        assert client.get("/v1/cache").json()["purges"] == 1

    def test_of_one_model_leaves_the_others(self, client: httpx.Client, cache: Cache, tenant: UUID):
        mine, other = put(cache, tenant, DIGEST), put(cache, tenant, OTHER)
        assert client.delete("/v1/cache", params={"model": MODEL}).json()["model"] == MODEL
        assert service.look_many(cache, [mine]).found == {}
        assert other in service.look_many(cache, [other]).found

    def test_of_a_model_that_is_not_there_purges_nothing(self, client: httpx.Client, cache: Cache, tenant: UUID):
        key = put(cache, tenant, DIGEST)
        refused(client.delete("/v1/cache", params={"model": "nobody"}), 404, "model_not_found", param="model")
        assert key in service.look_many(cache, [key]).found

    def test_a_misspelt_parameter_purges_nothing(self, client: httpx.Client, cache: Cache, tenant: UUID):
        key = put(cache, tenant, DIGEST)
        assert client.delete("/v1/cache", params={"modell": MODEL}).status_code == 400
        assert key in service.look_many(cache, [key]).found


class TestAway:
    def test_a_purge_that_did_not_happen_says_so(self, client: httpx.Client, stores: RunningStores):
        stores.kill("cache")
        try:
            refusal = client.delete("/v1/cache")
            assert (refusal.status_code, refusal.json()["code"]) == (503, "cache_unavailable")
        finally:
            stores.restart("cache")
        assert client.delete("/v1/cache").status_code == 200
