"""Bytes in odd places: folders, foreign alphabets, nothing at all, readers that leave and blobs that are gone."""

import hashlib
import json
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from services.artifacts import service as artifacts
from services.artifacts.service import NewArtifact
from services.files import service as files
from shared.manifest import Entry, Manifest
from shared.storage import Blob, Store
from tests.gateway import work
from tests.gateway.conftest import Gateway
from tests.gateway.served import MODEL, refused, register, submit

DATA = bytes(range(256)) * 64
NAMES = [
    "plain.txt",
    "résumé (1).txt",
    "日本語.jsonl",
    "it's.txt",
    "a;b=c.txt",
    "emoji 🎈.bin",
    "100%.txt",
    "..",
    "a/b",
]


def upload(client: httpx.Client, data: bytes = DATA, *, name: str = "a.bin", **form: Any) -> dict[str, Any]:
    answer = client.post("/v1/files", data={"purpose": "user_data", **form}, files={"file": (name, data)})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


@pytest.fixture
def folder(gateway: Gateway, client: httpx.Client) -> str:
    """An artifact that is a folder of two files."""
    job = submit(client)
    claimed = work.claim(gateway.database, job["id"])
    store = Store.of(gateway.settings)
    parts = {"config.json": b"{}", "shards/weights-1.bin": DATA}
    blobs = {path: store.put_bytes(claimed.tenant_id, data) for path, data in parts.items()}
    manifest = Manifest.of(Entry(path, blob.sha256, blob.bytes) for path, blob in blobs.items())
    listed = store.put_bytes(claimed.tenant_id, json.dumps(manifest.as_json()).encode())
    with gateway.database.transaction() as session:
        row = artifacts.add(
            session,
            NewArtifact(name="model", media_type="application/json", blob=listed, manifest=manifest),
            tenant_id=claimed.tenant_id,
            job_id=claimed.job_id,
            attempt=claimed.attempt,
        )
    work.end(gateway.database, claimed)
    return f"/v1/artifacts/{row.id}"


class TestFolders:
    def test_each_file_is_had_by_its_path(self, client: httpx.Client, folder: str) -> None:
        described = client.get(folder).json()
        assert [each["path"] for each in described["files"]] == ["config.json", "shards/weights-1.bin"]
        for each in described["files"]:
            answer = client.get(described["content"], params={"path": each["path"]})
            assert hashlib.sha256(answer.content).hexdigest() == each["sha256"]
            assert answer.headers["etag"] == f'"{each["sha256"]}"'
            name = each["path"].rpartition("/")[2]
            assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{name}"

    def test_in_slices_too(self, client: httpx.Client, folder: str) -> None:
        answer = client.get(
            f"{folder}/content", params={"path": "shards/weights-1.bin"}, headers={"range": "bytes=-256"}
        )
        assert (answer.status_code, answer.content) == (206, DATA[-256:])

    def test_without_a_path_it_is_its_list(self, client: httpx.Client, folder: str) -> None:
        assert client.get(f"{folder}/content").json() == client.get(folder).json()["files"]

    @pytest.mark.parametrize("path", ["", "shards", "../config.json", "/config.json", "CONFIG.JSON", "\x00"])
    def test_other_paths_lead_nowhere(self, client: httpx.Client, folder: str, path: str) -> None:
        refused(client.get(f"{folder}/content", params={"path": path}), 404, "not_found", param="path")


class TestRanges:
    @pytest.mark.parametrize(
        ("asked", "status", "told"),
        [
            (None, 200, None),
            ("bytes=5-9", 206, "bytes 5-9/16384"),
            ("bytes=-1", 206, "bytes 16383-16383/16384"),
            ("bytes=-99999999", 206, "bytes 0-16383/16384"),
            ("bytes=-0", 416, "bytes */16384"),
            ("bytes=16384-", 416, "bytes */16384"),
            ("bytes=99999999999999999-", 416, "bytes */16384"),
            ("bytes=9-5", 200, None),
        ],
    )
    def test_head_and_get_agree(self, client: httpx.Client, asked: str | None, status: int, told: str | None) -> None:
        path = f"/v1/files/{upload(client)['id']}/content"
        headers = {"range": asked} if asked else {}
        got, head = client.get(path, headers=headers), client.head(path, headers=headers)
        assert (got.status_code, head.status_code) == (status, status)
        for name in ("content-range", "content-length", "content-type", "content-disposition", "etag"):
            assert got.headers.get(name) == head.headers.get(name), name
        assert (got.headers.get("content-range"), head.content) == (told, b"")
        if status == 416:
            refused(got, 416, "range_not_satisfiable", param="Range")

    @pytest.mark.parametrize(("asked", "status"), [(None, 200), ("bytes=0-", 416), ("bytes=-5", 416)])
    def test_of_nothing_there_is_no_part(self, client: httpx.Client, asked: str | None, status: int) -> None:
        made = upload(client, b"")
        answer = client.get(f"/v1/files/{made['id']}/content", headers={"range": asked} if asked else {})
        assert (made["bytes"], answer.status_code) == (0, status)

    @pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "lines=0-1", "bytes=a-b", "bytes=-"])
    def test_what_is_no_range_is_ignored(self, client: httpx.Client, asked: str) -> None:
        answer = client.get(f"/v1/files/{upload(client)['id']}/content", headers={"range": asked})
        assert (answer.status_code, answer.content) == (200, DATA)

    @pytest.mark.parametrize("weak", [True, False])
    def test_a_range_of_what_has_changed_is_the_whole(self, client: httpx.Client, weak: bool) -> None:
        made = upload(client)
        tag = f'W/"{made["sha256"]}"' if weak else f'"{"ab" * 32}"'
        path, ranged = f"/v1/files/{made['id']}/content", {"range": "bytes=0-1", "if-range": tag}
        for answer in (client.get(path, headers=ranged), client.head(path, headers=ranged)):
            assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(DATA)))
        same = ranged | {"if-range": f'"{made["sha256"]}"'}
        assert client.get(path, headers=same).content == DATA[:2]

    def test_slices_make_the_whole(self, client: httpx.Client) -> None:
        path = f"/v1/files/{upload(client)['id']}/content"
        parts = [
            client.get(path, headers={"range": f"bytes={first}-{first + 999}"}).content
            for first in range(0, len(DATA), 1000)
        ]
        assert b"".join(parts) == DATA


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_file_keeps_its_name(self, client: httpx.Client, name: str) -> None:
        made = upload(client, name=name)
        disposition = client.head(f"/v1/files/{made['id']}/content").headers["content-disposition"]
        kind, _, spelled = disposition.partition("; filename*=UTF-8''")
        assert kind == "attachment"
        assert spelled.isascii()
        assert not set(spelled) & set(' "/;\\')
        assert httpx.URL(f"http://x/?{spelled}").query.decode() == spelled
        assert made["filename"] == client.get(f"/v1/files/{made['id']}").json()["filename"]
        assert made["filename"].rpartition("/")[2] == name.rpartition("/")[2]


class TestPurposes:
    def test_a_batchs_output_is_listed_and_never_uploaded(self, gateway: Gateway) -> None:
        tenant = gateway.tenant()
        blob = Store.of(gateway.settings).put_bytes(tenant, DATA)
        with gateway.database.transaction() as session:
            output = files.add_output(session, tenant, filename="output.jsonl", blob=blob, expires_in_s=3600)
        with gateway.caller(tenant=tenant) as client:
            own = upload(client)
            told = client.get("/v1/files", params={"purpose": "batch_output"}).json()["data"]
            assert [(file["id"], file["purpose"], file["status"], file["status_details"]) for file in told] == [
                (files.public_id(output), "batch_output", "processed", None)
            ]
            assert told[0]["expires_at"] == told[0]["created_at"] + 3600
            assert [file["id"] for file in client.get("/v1/files").json()["data"]] == [own["id"], told[0]["id"]]
            assert client.get(f"/v1/files/{told[0]['id']}/content").content == DATA
            form = {"purpose": "batch_output"}
            refused(
                client.post("/v1/files", data=form, files={"file": ("a", b"a")}), 400, "invalid_field", param="purpose"
            )

    def test_an_unknown_one_is_no_filter(self, client: httpx.Client) -> None:
        refused(client.get("/v1/files", params={"purpose": "mischief"}), 422, "validation_failed", param="purpose")


class TestGone:
    def test_a_deleted_file_has_no_bytes(self, client: httpx.Client) -> None:
        path = f"/v1/files/{upload(client)['id']}"
        client.delete(path)
        for part in ("", "/content"):
            refused(client.get(path + part), 404, "not_found", param="file_id")
        assert client.head(f"{path}/content").status_code == 404

    def test_an_expired_one_has_none_either(self, gateway: Gateway, client: httpx.Client) -> None:
        form: dict[str, Any] = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        path = f"/v1/files/{upload(client, **form)['id']}"
        assert client.get(f"{path}/content").content == DATA
        with gateway.database.transaction() as session:
            session.execute(text("UPDATE files SET expires_at = clock_timestamp() WHERE expires_at IS NOT NULL"))
        for part in ("", "/content"):
            refused(client.get(path + part), 404, "not_found", param="file_id")
        assert client.head(f"{path}/content").status_code == 404
        assert client.get("/v1/files").json()["data"] == []

    def test_a_deleted_file_is_no_input(self, gateway: Gateway) -> None:
        tenant = gateway.tenant()
        register(gateway, tenant)
        with gateway.caller(tenant=tenant) as client:
            made = upload(client, b'{"prompt": "a"}\n')
            body = {"kind": "inference", "spec": {"model": MODEL, "input_file": made["id"]}}
            planned = client.post("/v1/jobs", params={"validate_only": True}, json=body)
            assert planned.status_code == 200
            assert client.delete(f"/v1/files/{made['id']}").json()["deleted"] is True
            assert client.get("/v1/files").json()["data"] == []
            refused(client.post("/v1/jobs", json=body), 422, "unprocessable", param="spec.input_file")

    def test_the_same_bytes_twice_are_two_files(self, client: httpx.Client) -> None:
        first, second = upload(client), upload(client)
        assert first["sha256"] == second["sha256"]
        client.delete(f"/v1/files/{first['id']}")
        assert client.get(f"/v1/files/{second['id']}/content").content == DATA

    def test_a_blob_that_is_lost_is_our_fault(self, gateway: Gateway, client: httpx.Client) -> None:
        job = submit(client)
        claimed = work.claim(gateway.database, job["id"])
        with gateway.database.transaction() as session:
            row = artifacts.add(
                session,
                NewArtifact(name="lost", media_type="text/plain", blob=Blob("ab" * 32, 5)),
                tenant_id=claimed.tenant_id,
                job_id=claimed.job_id,
                attempt=claimed.attempt,
            )
        work.end(gateway.database, claimed)
        answer = client.get(f"/v1/artifacts/{row.id}/content")
        assert (answer.status_code, answer.json()["code"]) == (500, "blob_missing")

    def test_readers_that_leave_take_nothing_with_them(self, client: httpx.Client) -> None:
        path = f"/v1/files/{upload(client, bytes(4 * 1024**2))['id']}/content"
        for _ in range(30):
            with client.stream("GET", path) as answer:
                next(answer.iter_bytes())
        assert client.get(path).content == bytes(4 * 1024**2)
