import time

import pytest

from shared.http import READ_BYTES, Outbound, Reason, Unanswered
from tests.support import webhooks as script


def post(url: str, *, timeout_s: float = 1.0, allow_http: bool = True, **options):
    outbound = Outbound(timeout_s=timeout_s, allow_http=allow_http, **options)
    return outbound.post(url, body=b"{}", headers={"content-type": "application/json"})


class TestAnswer:
    def test_status_headers_and_body_come_back(self):
        with script.receiver(script.status(418, body=b"teapot", retry_after="7")) as receiver:
            reply = post(receiver.url)
        assert (reply.status, reply.body, reply.headers["retry-after"]) == (418, b"teapot", "7")
        assert receiver.received[0].body == b"{}"

    def test_redirects_are_not_followed(self):
        with script.receiver(script.status(301, location="http://127.0.0.1:1/")) as receiver:
            assert post(receiver.url).status == 301
        assert len(receiver.received) == 1

    def test_a_gigabyte_is_cut_at_64_kib(self):
        with script.receiver(script.flood) as receiver:
            assert len(post(receiver.url).body) == READ_BYTES

    def test_a_dripping_body_is_cut_by_the_deadline_and_the_status_counts(self):
        with script.receiver(script.drip_body) as receiver:
            began = time.monotonic()
            assert post(receiver.url, timeout_s=0.5).status == 200
            assert time.monotonic() - began < 1.5

    def test_proxies_of_the_environment_are_ignored(self, monkeypatch):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        with script.receiver() as receiver:
            assert post(receiver.url).status == 204


class TestNoAnswer:
    @pytest.mark.parametrize("answer", [script.hang, script.drip], ids=["hang", "drip"])
    def test_the_deadline_is_total(self, answer):
        with script.receiver(answer) as receiver:
            began = time.monotonic()
            with pytest.raises(Unanswered) as raised:
                post(receiver.url, timeout_s=0.5)
            assert raised.value.reason is Reason.TIMEOUT
            assert time.monotonic() - began < 1.5

    @pytest.mark.parametrize(("answer", "reason"), [(script.reset, Reason.CONNECT), (script.garbage, Reason.PROTOCOL)])
    def test_what_is_no_http_is_named(self, answer, reason):
        with script.receiver(answer) as receiver, pytest.raises(Unanswered) as raised:
            post(receiver.url)
        assert raised.value.reason is reason

    def test_a_refused_connection(self):
        with pytest.raises(Unanswered) as raised:
            post(script.closed_port())
        assert raised.value.reason is Reason.CONNECT

    def test_a_name_without_address(self):
        with pytest.raises(Unanswered) as raised:
            post("http://nobody.invalid/hook")
        assert raised.value.reason is Reason.DNS

    def test_tls_with_a_receiver_that_speaks_none(self):
        with script.receiver() as receiver, pytest.raises(Unanswered) as raised:
            post(receiver.url.replace("http:", "https:"))
        assert raised.value.reason is Reason.TLS

    @pytest.mark.parametrize(
        "url", ["ftp://example.com/", "http://", "nonsense", "http://user:pw@127.0.0.1/", "file:///etc/passwd"]
    )
    def test_urls_that_are_not_sent_to(self, url):
        with pytest.raises(Unanswered) as raised:
            post(url)
        assert raised.value.reason is Reason.URL

    def test_plain_http_only_where_it_is_allowed(self):
        with script.receiver() as receiver, pytest.raises(Unanswered) as raised:
            post(receiver.url, allow_http=False)
        assert raised.value.reason is Reason.URL
        assert not receiver.received


class TestResolve:
    def test_the_connection_goes_to_the_resolved_address(self):
        asked = []

        def resolve(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["127.0.0.1"]

        with script.receiver() as receiver:
            url = receiver.url.replace("127.0.0.1", "receiver.example")
            assert post(url, resolve=resolve).status == 204
        assert asked == ["receiver.example"]
        assert receiver.received[0].headers["host"].startswith("receiver.example:")
