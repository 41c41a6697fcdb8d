import json
from collections.abc import Callable
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from services.webhooks import service, signing
from shared.contracts.jobs import EventType, WebhookTarget
from shared.crypto import keyring
from shared.db.models import Job
from shared.db.session import Database
from shared.errors import InvalidField
from shared.ids import new_id
from shared.settings import Settings
from tests.support.configured import configured
from tests.support.stores import RunningStores

URL = "https://receiver.example/hook"


def wish(**fields: object) -> WebhookTarget:
    return WebhookTarget.model_validate({"url": URL, **fields})


class TestTarget:
    @pytest.fixture(autouse=True)
    def here(self, stores: RunningStores):
        with configured(stores.settings()):
            yield

    def test_a_secret_is_made_and_shown_once(self):
        tenant = new_id()
        hook = service.target(tenant, wish(events=[EventType.FAILED]))
        assert hook.stored == {"url": URL, "events": ["job.failed"]}
        assert hook.generated_secret is not None
        opened = keyring().unseal(hook.encrypted_secret, tenant_id=tenant, name="webhook")
        assert opened == signing.key_of(hook.generated_secret)
        assert hook.generated_secret not in repr(hook)

    def test_a_given_secret_is_sealed_and_not_repeated(self):
        secret = signing.new_secret()
        hook = service.target(new_id(), wish(secret=secret))
        assert hook.generated_secret is None
        assert secret.encode() not in hook.encrypted_secret

    def test_a_secret_of_wrong_length_is_named(self):
        with pytest.raises(InvalidField) as raised:
            service.target(new_id(), wish(secret="whsec_" + "A" * 33))
        assert raised.value.param == "webhook.secret"

    @pytest.mark.parametrize(
        "url",
        ["https://user:pw@receiver.example/", "https://receiver.example/#x", "https://receiver.example/" + "x" * 2048],
    )
    def test_urls_that_are_not_sent_to(self, url: str):
        with pytest.raises(InvalidField) as raised:
            service.target(new_id(), wish(url=url))
        assert raised.value.param == "webhook.url"

    def test_plain_http_where_it_is_turned_off(self, stores: RunningStores):
        plain = wish(url=URL.replace("https", "http"))
        service.target(new_id(), plain)
        with configured(stores.settings(webhook_allow_http=False)), pytest.raises(InvalidField):
            service.target(new_id(), plain)


class TestEnqueue:
    def test_the_body_is_an_event_object(self, session: Session, tell: Callable[..., str], job: Job):
        tell(URL, seq=7)
        (log,) = service.of_job(session, job.tenant_id, job.id)
        body = json.loads(log.delivery.body)
        assert body["id"] == service.public_id(log.delivery.id)
        assert (body["object"], body["type"]) == ("event", "job.succeeded")
        assert body["data"] == {"id": str(job.id), "state": "succeeded", "seq": 7}
        assert abs(body["created_at"] - log.delivery.created_at.timestamp()) < 60
        assert body["timestamp"].endswith("+00:00")

    def test_an_event_is_queued_once(self, session: Session, tell: Callable[..., str], job: Job):
        tell(URL, seq=1)
        tell(URL, seq=1)
        tell(URL, seq=2)
        assert [log.delivery.seq for log in service.of_job(session, job.tenant_id, job.id)] == [1, 2]

    def test_nothing_is_queued_when_the_transaction_fails(
        self, database: Database, here: Settings, job: Job, session: Session
    ):
        sealed = service.target(job.tenant_id, wish()).encrypted_secret
        doomed = Session(database.engine)
        service.enqueue(
            doomed, tenant_id=job.tenant_id, job_id=job.id, seq=1, type_="job.failed", url=URL, secret=sealed, data={}
        )
        doomed.rollback()
        doomed.close()
        assert not service.of_job(session, job.tenant_id, job.id)

    def test_the_courier_is_woken_by_the_commit(self, database: Database, tell: Callable[..., str]):
        address = database.url.replace("postgresql+psycopg", "postgresql")
        with psycopg.connect(address, autocommit=True) as listener:
            listener.execute("LISTEN bells")
            tell(URL)
            heard = [notice.payload for notice in listener.notifies(timeout=5, stop_after=1)]
        assert heard == ["control"]

    def test_another_tenant_sees_nothing(self, session: Session, tell: Callable[..., str], job: Job):
        tell(URL)
        assert not service.of_job(session, new_id(), job.id)

    def test_the_secret_is_not_in_the_row(self, session: Session, tell: Callable[..., str]):
        secret = tell(URL)
        rows = session.execute(text("SELECT webhook_deliveries::text FROM webhook_deliveries")).scalars().all()
        assert secret not in str(rows)
        assert signing.key_of(secret).hex() not in str(rows)


def test_public_ids_have_their_prefix():
    assert service.public_id(UUID(int=1)) == "evt_" + "0" * 31 + "1"
