"""What is no upload, no part and no completion is refused by name, and changes nothing."""

import hashlib
from typing import Any

import httpx
import pytest

from services.files import uploads as service
from tests.gateway.conftest import Gateway
from tests.gateway.parted import LINES, MIB, begin, complete, content, halves, part, send
from tests.gateway.served import refused, rows

NOBODY = f"upload_{'0' * 32}"


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "status", "code", "param"),
        [
            ({"bytes": 0}, 400, "invalid_field", "bytes"),
            ({"bytes": -1}, 400, "invalid_field", "bytes"),
            ({"bytes": 8 * 1024**3 + 1}, 400, "invalid_field", "bytes"),
            ({"bytes": 200 * MIB + 1, "purpose": "batch"}, 400, "invalid_field", "bytes"),
            ({"bytes": "many"}, 422, "validation_failed", "bytes"),
            ({"purpose": "mischief"}, 400, "invalid_field", "purpose"),
            ({"purpose": "batch_output"}, 400, "invalid_field", "purpose"),
            ({"filename": ""}, 400, "invalid_field", "filename"),
            ({"filename": "a\nb"}, 400, "invalid_field", "filename"),
            ({"filename": "x" * 256}, 400, "invalid_field", "filename"),
            ({"mime_type": ""}, 422, "validation_failed", "mime_type"),
            ({"mime_type": "a\x00"}, 422, "validation_failed", "mime_type"),
            ({"expires_after": {"anchor": "now", "seconds": 3600}}, 422, "validation_failed", "expires_after.anchor"),
            ({"expires_after": {"anchor": "created_at", "seconds": 1}}, 400, "invalid_field", "expires_after.seconds"),
            ({"colour": "red"}, 400, "unknown_parameter", "colour"),
        ],
    )
    def test_what_is_announced(
        self, gateway: Gateway, client: httpx.Client, *, fields: dict[str, Any], status: int, code: str, param: str
    ) -> None:
        before = rows(gateway)
        body = {"bytes": 5, "filename": "a.txt", "mime_type": "text/plain", "purpose": "user_data", **fields}
        refused(client.post("/v1/uploads", json=body), status, code, param=param)
        assert rows(gateway) == before

    def test_a_part_of_nothing(self, client: httpx.Client) -> None:
        refused(send(client, begin(client), b""), 400, "invalid_field", param="data")

    def test_a_part_of_more_than_was_announced(self, client: httpx.Client) -> None:
        refused(send(client, begin(client, 4), b"12345"), 413, "body_too_large", param="data")

    def test_a_part_of_one_byte_too_many(self, client: httpx.Client) -> None:
        upload = begin(client, 128 * MIB)
        refused(send(client, upload, bytes(64 * MIB + 1)), 413, "body_too_large", param="data")

    def test_a_part_of_65_mebibytes(self, gateway: Gateway, client: httpx.Client) -> None:
        upload, before = begin(client, 128 * MIB), rows(gateway)
        refused(send(client, upload, bytes(65 * MIB)), 413, "body_too_large")
        assert rows(gateway) == before

    @pytest.mark.parametrize(
        ("form", "status", "code", "param"),
        [
            ({"files": {"file": ("a", b"a")}}, 400, "unknown_parameter", "file"),
            ({"files": {"data": (None, "a")}}, 422, "validation_failed", "data"),
            ({"json": {"data": "a"}}, 415, "unsupported_media_type", "Content-Type"),
        ],
    )
    def test_a_form_of_another_shape(
        self, client: httpx.Client, *, form: dict[str, Any], status: int, code: str, param: str
    ) -> None:
        refused(client.post(f"/v1/uploads/{begin(client)}/parts", **form), status, code, param=param)

    def test_parts_that_are_not_the_whole(self, client: httpx.Client) -> None:
        upload = begin(client)
        first, second = halves(client, upload)
        for named in ([first], [second], [first, part(client, upload, LINES)]):
            refused(complete(client, upload, named), 400, "invalid_field", param="part_ids")
        assert content(client, complete(client, upload, [first, second])) == LINES

    def test_parts_that_are_none(self, client: httpx.Client) -> None:
        upload, other = begin(client, 3), begin(client, 3)
        own, foreign = part(client, upload, b"abc"), part(client, other, b"abc")
        for wrong in (foreign, f"part_{'0' * 32}", "part_7", "", own):
            refused(complete(client, upload, [own, wrong]), 400, "invalid_field", param="part_ids.1")
        refused(complete(client, upload, []), 422, "validation_failed", param="part_ids")

    def test_another_md5(self, client: httpx.Client) -> None:
        upload = begin(client)
        sent = halves(client, upload)
        refused(complete(client, upload, sent, md5="0" * 32), 400, "invalid_field", param="md5")
        refused(complete(client, upload, sent, md5="xyz"), 422, "validation_failed", param="md5")
        assert content(client, complete(client, upload, sent, md5=hashlib.md5(LINES).hexdigest())) == LINES

    @pytest.mark.parametrize("id", [NOBODY, "upload_7", "file-7", "%00"])
    def test_an_upload_that_is_none(self, client: httpx.Client, id: str) -> None:
        refused(send(client, id, b"a"), 404, "not_found", param="upload_id")
        refused(complete(client, id, ["part_7"]), 404, "not_found", param="upload_id")
        refused(client.post(f"/v1/uploads/{id}/cancel"), 404, "not_found", param="upload_id")

    def test_somebody_elses(self, gateway: Gateway, client: httpx.Client) -> None:
        upload = begin(client)
        sent = halves(client, upload)
        with gateway.caller() as stranger:
            refused(send(stranger, upload, b"a"), 404, "not_found", param="upload_id")
            refused(complete(stranger, upload, sent), 404, "not_found", param="upload_id")
            refused(stranger.post(f"/v1/uploads/{upload}/cancel"), 404, "not_found", param="upload_id")
            own = begin(stranger)
            refused(complete(stranger, own, sent), 400, "invalid_field", param="part_ids.0")
        assert content(client, complete(client, upload, sent)) == LINES

    def test_who_may_only_read(self, gateway: Gateway) -> None:
        with gateway.caller("files:read") as reader:
            refused(reader.post("/v1/uploads", json={}), 403, "missing_scope")
            refused(send(reader, NOBODY, b"a"), 403, "missing_scope")

    def test_more_parts_than_there_may_be(self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(service, "PARTS", 2)
        upload = begin(client)
        halves(client, upload)
        refused(send(client, upload, b"a"), 400, "invalid_field", param="data")
