import base64
import time

import pytest
import standardwebhooks
from openai import OpenAI

from services.webhooks import service, signing
from shared.ids import new_id

BODY = service.frame(
    service.public_id(new_id()), "job.succeeded", {"id": str(new_id()), "state": "succeeded", "seq": 3, "text": "ünï"}
)


class TestSecrets:
    def test_new_ones_are_32_random_bytes(self):
        secrets = {signing.new_secret() for _ in range(10)}
        assert len(secrets) == 10
        assert {len(signing.key_of(secret)) for secret in secrets} == {32}

    @pytest.mark.parametrize(
        "secret",
        [
            "",
            "whsec_",
            "whsec_!!",
            "whsec_" + base64.b64encode(b"x" * 23).decode(),
            "whsec_" + base64.b64encode(b"x" * 65).decode(),
        ],
    )
    def test_what_is_none(self, secret: str):
        with pytest.raises(ValueError, match=r"^not "):
            signing.key_of(secret)


class TestHeaders:
    def signed(self, secret: str, *, timestamp: int) -> dict[str, str]:
        return signing.headers(signing.key_of(secret), id="evt_1", timestamp=timestamp, body=BODY)

    def test_the_reference_library_verifies(self):
        secret = signing.new_secret()
        headers = self.signed(secret, timestamp=int(time.time()))
        assert standardwebhooks.Webhook(secret).verify(BODY, headers)["type"] == "job.succeeded"
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(secret).verify(BODY + b" ", headers)
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(signing.new_secret()).verify(BODY, headers)

    def test_the_openai_client_verifies(self):
        secret = signing.new_secret()
        headers = self.signed(secret, timestamp=int(time.time()))
        OpenAI(api_key="none").webhooks.verify_signature(BODY.decode(), headers, secret=secret)

    def test_the_specifications_own_example(self):
        # standard-webhooks, spec/standard-webhooks.md, "Signature scheme"
        key = signing.key_of("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
        headers = signing.headers(
            key,
            id="msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            timestamp=1649367553,
            body=b'{"email":"test@example.com","username":"test_user"}',
        )
        assert headers["webhook-signature"] == "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
