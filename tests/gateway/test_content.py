"""Bytes out and in: artifacts, files, ranges, multipart."""

import hashlib

import httpx
import pytest

from tests.gateway import work
from tests.gateway.conftest import Gateway

DATA = bytes(range(256)) * 4000  # 1 MB: several chunks
FORM = {"purpose": "user_data"}


@pytest.fixture
def artifact(gateway: Gateway, client: httpx.Client) -> str:
    job = client.post("/v1/jobs", json={"kind": "probe", "spec": {}}).json()
    claimed = work.claim(gateway.database, job["id"])
    artifact_id = work.artifact(gateway.database, gateway.settings, claimed, name='résumé "1".html', data=DATA)
    work.end(gateway.database, claimed)
    return artifact_id


def upload(client: httpx.Client, data: bytes = DATA, **form: str) -> httpx.Response:
    return client.post("/v1/files", data=FORM | form, files={"file": ("prompts.jsonl", data)})


class TestArtifact:
    def test_it_describes_its_bytes(self, client: httpx.Client, artifact: str) -> None:
        found = client.get(f"/v1/artifacts/{artifact}").json()
        assert (found["bytes"], found["sha256"]) == (len(DATA), hashlib.sha256(DATA).hexdigest())
        assert client.get(found["content"]).content == DATA

    def test_it_is_a_download_and_never_a_page(self, client: httpx.Client, artifact: str) -> None:
        answer = client.get(f"/v1/artifacts/{artifact}/content")
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''r%C3%A9sum%C3%A9%20%221%22.html"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-length"] == str(len(DATA))
        assert answer.headers["content-type"].startswith("text/html")

    def test_head_tells_the_same_without_the_bytes(self, client: httpx.Client, artifact: str) -> None:
        answer = client.head(f"/v1/artifacts/{artifact}/content")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == str(len(DATA))

    @pytest.mark.parametrize(
        ("asked", "first", "last"),
        [
            ("bytes=0-0", 0, 0),
            ("bytes=300000-300999", 300000, 300999),
            ("bytes=1023990-", 1023990, 1023999),
            ("bytes=-10", 1023990, 1023999),
            ("bytes=0-99999999", 0, 1023999),
        ],
    )
    def test_a_range_is_cut(self, client: httpx.Client, artifact: str, *, asked: str, first: int, last: int) -> None:
        answer = client.get(f"/v1/artifacts/{artifact}/content", headers={"range": asked})
        assert (answer.status_code, answer.content) == (206, DATA[first : last + 1])
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(DATA)}"

    def test_a_range_that_is_not_there(self, client: httpx.Client, artifact: str) -> None:
        answer = client.get(f"/v1/artifacts/{artifact}/content", headers={"range": "bytes=1024000-"})
        assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
        assert answer.headers["content-range"] == f"bytes */{len(DATA)}"

    @pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=1-2", "bytes=5-1", "bytes=x"])
    def test_a_range_that_is_none_is_everything(self, client: httpx.Client, artifact: str, asked: str) -> None:
        answer = client.get(f"/v1/artifacts/{artifact}/content", headers={"range": asked})
        assert (answer.status_code, len(answer.content)) == (200, len(DATA))

    def test_what_the_caller_has_is_not_sent(self, client: httpx.Client, artifact: str) -> None:
        path = f"/v1/artifacts/{artifact}/content"
        tag = client.head(path).headers["etag"]
        assert tag == f'"{hashlib.sha256(DATA).hexdigest()}"'
        assert client.get(path, headers={"if-none-match": tag}).status_code == 304
        ranged = {"range": "bytes=0-1", "if-range": tag}
        assert client.get(path, headers=ranged).status_code == 206
        assert client.get(path, headers=ranged | {"if-range": '"old"'}).status_code == 200

    def test_a_file_of_it_needs_a_folder(self, client: httpx.Client, artifact: str) -> None:
        answer = client.get(f"/v1/artifacts/{artifact}/content", params={"path": "../etc/passwd"})
        assert (answer.status_code, answer.json()["param"]) == (404, "path")


class TestFiles:
    def test_what_was_sent_comes_back(self, client: httpx.Client) -> None:
        expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        made = client.post("/v1/files", data=FORM | expiry, files={"file": ("prompts.jsonl", DATA)}).json()
        assert made["id"].startswith("file-")
        assert (made["object"], made["bytes"], made["purpose"]) == ("file", len(DATA), "user_data")
        assert (made["filename"], made["status"]) == ("prompts.jsonl", "processed")
        assert made["expires_at"] - made["created_at"] == 3600
        assert client.get(f"/v1/files/{made['id']}").json() == made
        assert client.get(f"/v1/files/{made['id']}/content").content == DATA
        part = client.get(f"/v1/files/{made['id']}/content", headers={"range": "bytes=1-3"})
        assert (part.status_code, part.content) == (206, DATA[1:4])

    def test_an_empty_file_is_a_file(self, client: httpx.Client) -> None:
        made = upload(client, b"").json()
        assert client.get(f"/v1/files/{made['id']}/content").content == b""

    def test_pages_and_deletes(self, client: httpx.Client) -> None:
        ids = [upload(client, bytes([number])).json()["id"] for number in range(3)][::-1]
        first = client.get("/v1/files", params={"limit": 2}).json()
        assert ([file["id"] for file in first["data"]], first["has_more"]) == (ids[:2], True)
        rest = client.get("/v1/files", params={"after": first["last_id"], "order": "desc"}).json()
        assert [file["id"] for file in rest["data"]] == ids[2:]
        assert client.get("/v1/files", params={"purpose": "batch"}).json()["data"] == []
        assert client.delete(f"/v1/files/{ids[0]}").json() == {"id": ids[0], "object": "file", "deleted": True}
        assert client.get(f"/v1/files/{ids[0]}").status_code == 404
        assert client.delete(f"/v1/files/{ids[0]}").status_code == 404
        cursor = client.get("/v1/files", params={"after": ids[0]})
        assert (cursor.status_code, cursor.json()["code"]) == (400, "invalid_cursor")

    @pytest.mark.parametrize(
        ("form", "param"),
        [
            ({"purpose": "fun"}, "purpose"),
            ({"colour": "red"}, "colour"),
            ({"expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
            ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
            ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "-1"}, "expires_after[seconds]"),
            ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "1"}, "expires_after.seconds"),
        ],
    )
    def test_a_form_that_is_wrong(self, client: httpx.Client, form: dict[str, str], param: str) -> None:
        answer = client.post("/v1/files", data=FORM | form, files={"file": ("a", b"a")})
        assert (answer.status_code in (400, 422), answer.json()["param"]) == (True, param), answer.text

    def test_a_form_without_its_parts(self, client: httpx.Client) -> None:
        bare = client.post("/v1/files", files={"file": ("a", b"a")})
        assert (bare.status_code, bare.json()["param"]) == (422, "purpose")
        text = client.post("/v1/files", data=FORM, files={"other": ("a", b"a")})
        assert (text.status_code, text.json()["param"]) == (400, "other")
        two = client.post("/v1/files", data=FORM, files=[("file", ("a", b"a")), ("file", ("b", b"b"))])
        assert (two.status_code, two.json()["code"]) == (400, "invalid_form")

    @pytest.mark.parametrize("name", ["a\nb", "x" * 256, ""])
    def test_a_name_that_cannot_be(self, client: httpx.Client, name: str) -> None:
        quoted = name.replace("\n", "%0A")
        body = (
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="'
            + quoted.encode()
            + b'"\r\n\r\na\r\n--x--\r\n'
        )
        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = client.post("/v1/files", content=body, headers=headers)
        assert answer.status_code in (200, 400)  # an escaped line break is two harmless characters
        assert answer.status_code == 200 or answer.json()["param"] == "file"

    @pytest.mark.parametrize(
        ("kind", "status"),
        [("application/json", 415), ("multipart/form-data", 400), ("multipart/form-data; boundary=x", 400)],
    )
    def test_a_body_that_is_no_form(self, client: httpx.Client, kind: str, status: int) -> None:
        answer = client.post("/v1/files", content=b"{}", headers={"content-type": kind})
        assert answer.status_code == status, answer.text

    def test_a_batch_has_its_own_limit(self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("services.files.service.BATCH_BYTES", 1000)
        answer = upload(client, purpose="batch")
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
