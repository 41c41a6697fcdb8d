"""Files in parts: sent in any order and at once, put together once, through restarts, by whoever owns them."""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI
from sqlalchemy import text

from services.files import uploads as service
from shared.storage import Store, key_of
from tests.gateway.conftest import Gateway, serving
from tests.gateway.parted import LINES, MIB, begin, complete, content, halves, part, send
from tests.gateway.served import refused, rows
from tests.support.stores import RunningStores


def run_out(gateway: Gateway, upload: str) -> None:
    """Let an upload's time be over."""
    with gateway.database.transaction() as session:
        session.execute(
            text("UPDATE uploads SET expires_at = clock_timestamp() - interval '1 s' WHERE id = CAST(:id AS uuid)"),
            {"id": upload.removeprefix("upload_")},
        )


class TestParts:
    def test_they_become_a_file_in_the_order_named(self, client: httpx.Client) -> None:
        upload = begin(client)
        cut = [LINES[start : start + 1000] for start in range(0, len(LINES), 1000)]
        sent = [part(client, upload, data) for data in reversed(cut)][::-1]
        completed = complete(client, upload, sent, md5=hashlib.md5(LINES).hexdigest().upper())
        assert content(client, completed) == LINES
        file = completed.json()["file"]
        assert client.get(f"/v1/files/{file['id']}").json() == file
        assert (file["filename"], file["purpose"], file["expires_at"]) == ("lines.jsonl", "user_data", None)

    def test_they_may_come_at_once(self, client: httpx.Client) -> None:
        data = os.urandom(8 * MIB)
        upload = begin(client, len(data))
        with ThreadPoolExecutor(8) as threads:
            sent = list(threads.map(lambda n: part(client, upload, data[n * MIB : (n + 1) * MIB]), range(8)))
        assert content(client, complete(client, upload, sent)) == data

    def test_one_that_is_the_whole(self, client: httpx.Client) -> None:
        upload = begin(client)
        assert content(client, complete(client, upload, [part(client, upload, LINES)])) == LINES

    def test_equal_parts_are_named_each(self, client: httpx.Client) -> None:
        upload = begin(client, 6)
        assert content(client, complete(client, upload, [part(client, upload, b"ab") for _ in range(3)])) == b"ababab"

    def test_what_is_not_named_is_left_out(self, client: httpx.Client) -> None:
        upload = begin(client, 2)
        part(client, upload, b"xx")
        assert content(client, complete(client, upload, [part(client, upload, b"ok")])) == b"ok"

    def test_the_largest_passes(self, client: httpx.Client) -> None:
        data = os.urandom(MIB) * 64
        upload = begin(client, len(data) + 1)
        sent = [part(client, upload, data), part(client, upload, b"!")]
        assert content(client, complete(client, upload, sent)) == data + b"!"

    def test_a_batch_file_expires_as_files_do(self, client: httpx.Client) -> None:
        for expiry, seconds in ((None, 2_592_000), ({"anchor": "created_at", "seconds": 3600}, 3600)):
            upload = begin(client, purpose="batch", expires_after=expiry)
            file = complete(client, upload, halves(client, upload)).json()["file"]
            assert file["expires_at"] - file["created_at"] == seconds


class TestEnds:
    """After its end an upload takes nothing, and says how it ended."""

    def test_a_completed_one(self, client: httpx.Client) -> None:
        upload = begin(client)
        sent = halves(client, upload)
        complete(client, upload, sent)
        refused(send(client, upload, b"a"), 409, "upload_completed", param="upload_id")
        refused(complete(client, upload, sent[::-1]), 409, "upload_completed", param="upload_id")
        refused(client.post(f"/v1/uploads/{upload}/cancel"), 409, "upload_completed", param="upload_id")

    def test_a_cancelled_one(self, client: httpx.Client) -> None:
        upload = begin(client)
        sent = halves(client, upload)
        for _ in range(2):
            answer = client.post(f"/v1/uploads/{upload}/cancel")
            assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        refused(send(client, upload, b"a"), 409, "upload_cancelled", param="upload_id")
        refused(complete(client, upload, sent), 409, "upload_cancelled", param="upload_id")

    def test_a_late_one(self, gateway: Gateway, client: httpx.Client) -> None:
        upload = begin(client)
        sent = halves(client, upload)
        run_out(gateway, upload)
        for swept in (0, 1):
            if swept:
                with gateway.database.transaction() as session:
                    assert service.expire(session) >= 1
            refused(send(client, upload, b"a"), 409, "upload_expired", param="upload_id")
            refused(complete(client, upload, sent), 409, "upload_expired", param="upload_id")
            refused(client.post(f"/v1/uploads/{upload}/cancel"), 409, "upload_expired", param="upload_id")

    def test_a_completion_that_comes_again(self, client: httpx.Client) -> None:
        upload = begin(client)
        sent = halves(client, upload)
        first = complete(client, upload, sent)
        assert complete(client, upload, sent).json() == first.json()
        client.delete(f"/v1/files/{first.json()['file']['id']}")
        again = complete(client, upload, sent).json()
        assert (again["status"], again["file"]) == ("completed", None)

    def test_many_completions_at_once_make_one_file(self, gateway: Gateway, client: httpx.Client) -> None:
        data = os.urandom(4 * MIB)
        upload, files = begin(client, len(data)), rows(gateway)["files"]
        sent = halves(client, upload, data)
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: complete(client, upload, sent), range(8)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["file"]["id"] for answer in answers}) == 1
        assert rows(gateway)["files"] == files + 1
        assert content(client, answers[0]) == data

    def test_a_gateway_that_died_at_it_is_waited_for_a_while(self, gateway: Gateway, client: httpx.Client) -> None:
        upload = begin(client)
        sent = halves(client, upload)
        with gateway.database.transaction() as session:
            session.execute(text("UPDATE uploads SET completing_until = clock_timestamp() + interval '2 s'"))
        answer = complete(client, upload, sent)
        assert answer.elapsed.total_seconds() > 0.4
        assert content(client, answer) == LINES


class TestRestarts:
    def test_of_the_gateway_between_parts(self, gateway: Gateway) -> None:
        tenant = gateway.tenant()
        headers = {"authorization": f"Bearer {gateway.key(tenant=tenant)}"}
        sent: list[str] = []
        with gateway.caller(tenant=tenant) as client:
            upload = begin(client)
        for piece in (LINES[:5000], LINES[5000:]):
            with serving(gateway.settings) as url, httpx.Client(base_url=url, headers=headers, timeout=30) as client:
                sent.append(part(client, upload, piece))
        with gateway.caller(tenant=tenant) as client:
            assert content(client, complete(client, upload, sent)) == LINES

    @pytest.mark.faults
    def test_of_the_object_store_between_parts(self, client: httpx.Client, stores: RunningStores) -> None:
        upload = begin(client)
        first = part(client, upload, LINES[:5000])
        stores.kill("store")
        try:
            refused_or_down = send(client, upload, b"lost")
            assert (refused_or_down.status_code, refused_or_down.json()["code"]) == (503, "store_unavailable")
        finally:
            stores.restart("store")
        sent = [first, part(client, upload, LINES[5000:])]
        stores.kill("store")
        stores.restart("store")
        assert content(client, complete(client, upload, sent)) == LINES

    @pytest.mark.faults
    def test_of_the_object_store_before_a_completion(self, client: httpx.Client, stores: RunningStores) -> None:
        upload = begin(client)
        sent = halves(client, upload)
        stores.kill("store")
        try:
            answer = complete(client, upload, sent)
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        finally:
            stores.restart("store")
        assert content(client, complete(client, upload, sent)) == LINES


class TestTenants:
    def test_equal_uploads_of_two_share_nothing(self, gateway: Gateway, stores: RunningStores) -> None:
        digests = []
        for tenant in (gateway.tenant(), gateway.tenant()):
            with gateway.caller(tenant=tenant) as client:
                upload = begin(client)
                completed = complete(client, upload, halves(client, upload))
                assert content(client, completed) == LINES
                digests.append((tenant, completed.json()["file"]["sha256"]))
        for tenant, sha256 in digests:
            assert (stores.stores.place.store / stores.s3_bucket / key_of(tenant, sha256)).exists()
        store = Store.of(gateway.settings)
        store.delete(*digests[0])
        assert store.size(*digests[1]) == len(LINES)


class TestClient:
    """OpenAI's own."""

    @pytest.fixture
    def sdk(self, gateway: Gateway) -> Iterator[OpenAI]:
        with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(), max_retries=0) as client:
            yield client

    def test_it_sends_a_file_in_chunks(self, sdk: OpenAI, tmp_path: Path) -> None:
        path = tmp_path / "report.bin"
        path.write_bytes(os.urandom(3 * MIB + 17))
        upload = sdk.uploads.upload_file_chunked(
            file=path,
            mime_type="application/octet-stream",
            purpose="user_data",
            part_size=MIB,
            md5=hashlib.md5(path.read_bytes()).hexdigest(),
        )
        assert upload.status == "completed"
        assert upload.file is not None
        assert upload.file.filename == "report.bin"
        assert upload.expires_at == upload.created_at + 3600
        assert sdk.files.content(upload.file.id).read() == path.read_bytes()

    def test_it_sends_bytes_in_chunks(self, sdk: OpenAI) -> None:
        upload = sdk.uploads.upload_file_chunked(
            file=LINES, filename="b.jsonl", bytes=len(LINES), mime_type="text/jsonl", purpose="batch", part_size=1000
        )
        assert upload.file is not None
        assert sdk.files.content(upload.file.id).read() == LINES
        assert [file.id for file in sdk.files.list(purpose="batch")] == [upload.file.id]

    def test_it_cancels(self, sdk: OpenAI) -> None:
        upload = sdk.uploads.create(bytes=5, filename="a", mime_type="text/plain", purpose="assistants")
        made = sdk.uploads.parts.create(upload.id, data=b"hello")
        assert sdk.uploads.cancel(upload.id).status == "cancelled"
        with pytest.raises(openai.ConflictError) as caught:
            sdk.uploads.complete(upload.id, part_ids=[made.id])
        assert (caught.value.code, caught.value.param) == ("upload_cancelled", "upload_id")


class TestRaces:
    def test_a_cancel_in_the_middle_of_a_completion_wins_or_loses(self, client: httpx.Client) -> None:
        """Never a file and a cancelled upload at once."""
        for _ in range(5):
            data = os.urandom(MIB)
            upload = begin(client, len(data))
            sent = halves(client, upload, data)
            answers: list[httpx.Response] = []
            completing = threading.Thread(target=lambda: answers.append(complete(client, upload, sent)))  # noqa: B023
            completing.start()
            cancelled = client.post(f"/v1/uploads/{upload}/cancel")
            completing.join()
            assert sorted([answers[0].status_code, cancelled.status_code]) == [200, 409]
            if answers[0].status_code == 200:
                assert content(client, answers[0]) == data
