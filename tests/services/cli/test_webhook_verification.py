"""What we tell receivers to do is what genuine requests pass, and nothing else."""

import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from services.cli.receiver import Received, Receiver, signature_of
from services.webhooks import signing
from shared.embedded.roles import ROOT

BODY = b'{"id":"evt_1","data":{"id":"j","text":"\xc3\xa9"}}'


@pytest.fixture(scope="module")
def verify() -> Callable[..., None]:
    """The function in infra/docs/jobs.md."""
    (source,) = re.findall(r"```python\n(.*?)```", (ROOT / "infra/docs/jobs.md").read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(source, found)
    made: Callable[..., None] = found["verify"]
    return made


def signed(secret: str, *, age_s: float = 0) -> Received:
    key = signing.key_of(secret)
    return Received(signing.headers(key, id="evt_1", timestamp=int(time.time() - age_s), body=BODY), BODY)


class TestDocumentedVerification:
    def test_a_genuine_request_passes(self, verify: Callable[..., None]) -> None:
        secret = signing.new_secret()
        verify(secret, signed(secret).headers, BODY)

    def test_one_of_several_signatures_is_enough(self, verify: Callable[..., None]) -> None:
        secret = signing.new_secret()
        request = signed(secret)
        request.headers["webhook-signature"] = f"v1,AAAA {request.headers['webhook-signature']}"
        verify(secret, request.headers, BODY)

    def test_another_body_fails(self, verify: Callable[..., None]) -> None:
        secret = signing.new_secret()
        with pytest.raises(ValueError, match="not signed"):
            verify(secret, signed(secret).headers, BODY + b" ")

    def test_another_secret_fails(self, verify: Callable[..., None]) -> None:
        with pytest.raises(ValueError, match="not signed"):
            verify(signing.new_secret(), signed(signing.new_secret()).headers, BODY)

    def test_an_old_request_fails(self, verify: Callable[..., None]) -> None:
        secret = signing.new_secret()
        with pytest.raises(ValueError, match="too old"):
            verify(secret, signed(secret, age_s=301).headers, BODY)


class TestSignatureOf:
    def test_is_what_the_specification_says(self) -> None:
        secret = signing.new_secret()
        request = signed(secret)
        assert signature_of(request, secret) == request.headers["webhook-signature"]
        Webhook(secret).verify(request.body, request.headers)


class TestReceiver:
    def test_keeps_what_arrives_as_it_is(self) -> None:
        with Receiver() as receiver:
            answer = httpx.post(receiver.url, content=BODY, headers={"Webhook-Id": "evt_1"})
            arrived = receiver.wait(timeout_s=5)
        assert answer.status_code == 204
        assert arrived is not None
        assert arrived.body == BODY
        assert arrived.headers["webhook-id"] == "evt_1"

    def test_nothing_arrives(self) -> None:
        with Receiver() as receiver:
            assert receiver.wait(timeout_s=0.01) is None
